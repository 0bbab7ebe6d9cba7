"""Reads the first row only."""


class CountMin:
    def estimate(self, key):
        return self.table[0][next(self.columns(key))]
