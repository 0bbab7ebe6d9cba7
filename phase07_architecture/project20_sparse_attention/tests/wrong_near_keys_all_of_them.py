"""All keys of the column since the start of the text: right, and no less work than without a window."""


class Near:
    def keys(self, rows):
        return arange(rows[0] % self.step, rows[-1] + 1, self.step)
