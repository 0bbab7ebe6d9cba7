"""Answers with the nearest question, however far away it is."""


class SemanticCache:
    def lookup(self, question, vector):
        if not self.enabled:
            return None
        self.lookups += 1
        number = self.nearest(unit(vector))[1]
        if number is None:
            return None
        known, answer = self.entries[number]
        self.hits += 1
        self.false_hits += self.same is not None and not self.same(question, known)
        return answer
