"""The first tokens of each block, which know nothing of what the block says."""


class Columns:
    def look(self, t, s):
        return s % self.size < self.count
