"""Multiplies by k1 + 1, which is another variant."""


class BM25:
    def scores(self, query):
        found = np.zeros(self.N)
        for word in query:
            for number, tf in self.postings.get(word, ()):
                scale = self.k1 * (1 - self.b + self.b * self.lengths[number] / self.mean)
                found[number] += self.idf(word) * tf * (self.k1 + 1) / (tf + scale)
        return found
