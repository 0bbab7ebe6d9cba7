"""Keys of the last query alone: what only the first ones see is missing."""


class Near:
    def keys(self, rows):
        first = rows[-1] % self.step
        if self.width is not None:
            first = max(first, rows[-1] - (self.width - 1) * self.step)
        return arange(first, rows[-1] + 1, self.step)
