"""Takes the least counter of each row: whoever was never seen decides."""


class CountMin:
    def estimate(self, key):
        return min(map(min, self.table))
