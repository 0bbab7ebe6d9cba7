"""Takes the mean of the counters, as if errors went both ways."""


class CountMin:
    def estimate(self, key):
        cells = [row[column] for row, column in zip(self.table, self.columns(key), strict=True)]
        return sum(cells) // len(cells)
