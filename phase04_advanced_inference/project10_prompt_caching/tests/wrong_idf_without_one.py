"""Without the 1 inside the logarithm: a word that most passages have counts against them."""


class BM25:
    def idf(self, word):
        n = len(self.postings.get(word, ()))
        return math.log((self.N - n + 0.5) / (n + 0.5)) if n else 0.0
