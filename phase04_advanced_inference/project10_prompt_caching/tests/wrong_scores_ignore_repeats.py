"""Counts a repeated word of the question once."""


class BM25:
    def scores(self, query):
        found = np.zeros(self.N)
        for word in set(query):
            for number, tf in self.postings.get(word, ()):
                scale = self.k1 * (1 - self.b + self.b * self.lengths[number] / self.mean)
                found[number] += self.idf(word) * tf / (tf + scale)
        return found
