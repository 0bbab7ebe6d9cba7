"""Takes the nearest: all links go into one cluster, and the others become islands."""


class HNSW:
    def select(self, candidates, m):
        return [number for _, number in candidates[:m]]
