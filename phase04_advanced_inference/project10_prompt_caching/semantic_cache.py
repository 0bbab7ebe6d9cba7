"""The semantic cache: a question like one answered before gets that answer. It can be wrong.

Came before: the exact cache, which can not. New here: near is near enough. "Where does Mara live?" and "Where
is Mara's home?" are near; so are "Where does Mara live?" and "Where does Sara live?", and their answers are
not the same. No threshold tells these apart for certain. So it is off until someone switches it on, and it
reports beside its hit rate its *false-hit rate*: the share of hits whose answer was another question's.

Bang 2023, GPTCache (NLP-OSS); Gill et al. 2024, 2403.02694 (MeanCache). Nearness: `hnsw.py`.
"""

import numpy as np

from common.errors import demand
from common.exercise import exercise

from .hnsw import HNSW


class SemanticCache:
    """Answers by unit vectors of D numbers. threshold: the least cosine that counts as the same question.

    enabled: False until whoever runs it has looked at the false hits. same(question, other) -> bool: a judge
    for audits, asked on hits alone; without one, false hits are unknown and said to be so.
    """

    def __init__(self, D, threshold=0.95, enabled=False, same=None):
        demand(0 < threshold <= 1, f"a threshold of {threshold}: a cosine in (0, 1]")
        self.index, self.threshold, self.enabled, self.same = HNSW(D), threshold, enabled, same
        self.entries, self.lookups, self.hits, self.false_hits = [], 0, 0, 0

    def nearest(self, vector):
        """(cosine, number) of the nearest question there is, or (-1, None)."""
        found = self.index.search(vector, 1)
        if not found:
            return -1.0, None
        return float(np.dot(self.index.vectors[found[0]], vector)), found[0]

    @exercise
    def lookup(self, question, vector):
        """The answer of the nearest question, if it is near enough; else None. Off: always None, not counted.

        vector: (D,), brought to length 1. Lookups and hits are counted, and where there is a judge, the hits
        on a question that is not the same. UserError for a vector of zeros.
        """
        if not self.enabled:
            return None
        self.lookups += 1
        cosine, number = self.nearest(unit(vector))
        if number is None or cosine < self.threshold:
            return None
        known, answer = self.entries[number]
        self.hits += 1
        self.false_hits += self.same is not None and not self.same(question, known)
        return answer

    def store(self, question, vector, answer):
        """Keep an answer; off, nothing is kept."""
        if self.enabled:
            self.index.add(unit(vector))
            self.entries.append((question, answer))

    def report(self):
        """{"hit_rate", "false_hit_rate"}: of lookups, and of hits; None if nobody judged or nothing hit."""
        judged = self.same is not None and self.hits
        hit_rate = self.hits / self.lookups if self.lookups else 0.0
        return {"hit_rate": hit_rate, "false_hit_rate": self.false_hits / self.hits if judged else None}


def unit(vector):
    """At length 1, float32; UserError where it has none."""
    vector = np.asarray(vector, np.float32)
    length = np.linalg.norm(vector)
    demand(np.isfinite(length) and length > 0, "a vector of zeros, or of what is no number, means nothing")
    return vector / length
