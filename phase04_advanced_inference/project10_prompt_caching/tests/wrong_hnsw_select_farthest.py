"""The top-k heap is the wrong way round: it keeps the farthest."""


class HNSW:
    def select(self, candidates, m):
        return [number for _, number in sorted(candidates, reverse=True)[:m]]
