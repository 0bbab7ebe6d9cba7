"""Answers although nobody switched it on."""


class SemanticCache:
    def lookup(self, question, vector):
        self.lookups += 1
        cosine, number = self.nearest(unit(vector))
        if number is None or cosine < self.threshold:
            return None
        known, answer = self.entries[number]
        self.hits += 1
        self.false_hits += self.same is not None and not self.same(question, known)
        return answer
