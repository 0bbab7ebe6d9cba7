"""Applies the merge that fits most often instead of the one that was learned first."""


class BasicBPE:
    def merge_all(self, ids):
        while len(ids) > 1:
            counts = {pair: n for pair, n in count_pairs(ids).items() if pair in self.merges}
            if not counts:
                break
            pair = most_frequent(counts)
            ids = merge(ids, pair, self.merges[pair])
        return ids
