"""At the start of the text the column begins at 0, whatever the queries' place in the step is."""


class Near:
    def keys(self, rows):
        first = 0
        if self.width is not None:
            first = max(first, rows[0] - (self.width - 1) * self.step)
        return arange(first, rows[-1] + 1, self.step)
