"""Sets every counter to the new estimate, also those that stood higher: too low for others."""


class CountMin:
    def add(self, key, n=1):
        demand(n >= 1, f"{n} times: a sketch only counts up")
        level = self.estimate(key) + n
        self.total += n
        for row, column in zip(self.table, self.columns(key), strict=True):
            row[column] = level
