"""A word that nobody has weighs most of all."""


class BM25:
    def idf(self, word):
        n = len(self.postings.get(word, ()))
        return math.log(1 + (self.N - n + 0.5) / (n + 0.5))
