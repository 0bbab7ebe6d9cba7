"""Goes through the merges once and stops at the first that does not fit."""


class BasicBPE:
    def merge_all(self, ids):
        for pair, new in self.merges.items():
            if pair not in count_pairs(ids):
                break
            ids = merge(ids, pair, new)
        return ids
