"""Keeps only the nearest, so the walk ends in the first dip."""


class HNSW:
    def search_layer(self, query, starts, ef, floor):
        far, here = min(starts)
        while True:
            links = self.links[here][floor]
            near = min(zip(self.distances(query, links), links, strict=True)) if links else (far, here)
            if near >= (far, here):
                return [(far, here)]
            far, here = near
