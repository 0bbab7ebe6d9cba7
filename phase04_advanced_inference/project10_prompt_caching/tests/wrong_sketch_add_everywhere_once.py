"""Adds to every counter: never too low, but strangers are raised without need."""


class CountMin:
    def add(self, key, n=1):
        demand(n >= 1, f"{n} times: a sketch only counts up")
        self.total += n
        for row, column in zip(self.table, self.columns(key), strict=True):
            row[column] += n
