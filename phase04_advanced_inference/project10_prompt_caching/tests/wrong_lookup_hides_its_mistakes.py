"""Counts hits, and not the false ones among them."""


class SemanticCache:
    def lookup(self, question, vector):
        if not self.enabled:
            return None
        self.lookups += 1
        cosine, number = self.nearest(unit(vector))
        if number is None or cosine < self.threshold:
            return None
        self.hits += 1
        return self.entries[number][1]
