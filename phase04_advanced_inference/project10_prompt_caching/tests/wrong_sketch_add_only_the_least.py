"""Raises only the least counter by n: others of that key may stay under its new count."""


class CountMin:
    def add(self, key, n=1):
        demand(n >= 1, f"{n} times: a sketch only counts up")
        self.total += n
        cells = list(zip(self.table, self.columns(key), strict=True))
        row, column = min(cells, key=lambda cell: cell[0][cell[1]])
        row[column] += n
