"""HNSW: the nearest of many vectors, found by walking a graph instead of looking at all of them.

Came before: `exact`, which measures every distance. New here: each vector is linked to some near ones, on a
ground floor that holds everybody and on upper floors that hold ever fewer (1 in M goes up a floor). A search
comes in at the top, walks greedily, goes down, and on the ground floor keeps the `ef` best it has seen.

Floors are drawn from the seed and a vector's number, and ties go to the smaller number: the same vectors in
the same order give the same graph in every process.

Malkov and Yashunin 2016, 1603.09320: algorithms 1 (insert), 2 (search_layer), 4 (select), 5 (search).
"""

import heapq
import math
import random

import numpy as np

from common.errors import demand
from common.exercise import exercise


def exact(vectors, query, k):
    """The numbers of the k nearest of vectors (N, D) to query (D,), nearest first: the oracle."""
    far = ((vectors - query) ** 2).sum(1)
    return np.lexsort((np.arange(len(far)), far))[:k].tolist()


class HNSW:
    """Vectors of D numbers by squared distance; of unit vectors that is the order of cosines.

    M: links of a vector on an upper floor, twice as many on the ground. calls: distances measured so far.
    """

    def __init__(self, D, M=16, ef_construction=100, seed=0):
        demand(M >= 2 and ef_construction >= 1, "M must be at least 2 and ef_construction at least 1")
        self.M, self.ef_construction, self.seed, self.calls = M, ef_construction, seed, 0
        self.vectors, self.n = np.empty((256, D), np.float32), 0
        self.links = []  # links[i][floor]: the numbers that i points to
        self.entry = None

    def __len__(self):
        return self.n

    def distances(self, query, numbers):
        """Squared distances to the vectors of these numbers, and they are counted."""
        self.calls += len(numbers)
        away = self.vectors[numbers] - query
        return np.einsum("nd,nd->n", away, away).tolist()

    def floor_of(self, number):
        """The highest floor that a vector is on: f or more with chance M ** -f."""
        chance = 1.0 - random.Random(f"{self.seed}:{number}").random()  # in (0, 1]
        return int(-math.log(chance) / math.log(self.M))

    @exercise
    def search_layer(self, query, starts, ef, floor):
        """The ef nearest on a floor that a walk from `starts` meets: [(distance, number)], nearest first.

        starts: such pairs too. The nearest candidate not yet looked at goes next, all its links that were not
        met before are measured, and those that are among the ef best so far become candidates. It ends when
        the nearest candidate is further away than the worst of ef.
        """
        met = {number for _, number in starts}
        candidates = list(starts)  # a heap, nearest first
        best = [(-far, -number) for far, number in starts]  # a heap, the worst first
        heapq.heapify(candidates)
        heapq.heapify(best)
        while candidates:
            far, number = heapq.heappop(candidates)
            if len(best) >= ef and far > -best[0][0]:
                break
            new = [other for other in self.links[number][floor] if other not in met]
            met.update(new)
            for away, other in zip(self.distances(query, new) if new else [], new, strict=True):
                if len(best) < ef or away < -best[0][0]:
                    heapq.heappush(candidates, (away, other))
                    heapq.heappush(best, (-away, -other))
                    if len(best) > ef:
                        heapq.heappop(best)
        return sorted((-far, -number) for far, number in best)[:ef]

    @exercise
    def select(self, candidates, m):
        """Whom to link to: at most m of candidates [(distance, number)] nearest first, as numbers.

        One is taken if it is nearer to us than to everyone taken before it, so that links point into all
        directions and not m times into one cluster. Room that is left goes to the nearest passed by.
        """
        taken, passed = [], []
        for far, number in candidates:
            if len(taken) == m:
                break
            between = self.distances(self.vectors[number], taken) if taken else [math.inf]
            (taken if far < min(between) else passed).append(number)
        return taken + passed[: m - len(taken)]

    def add(self, vector):
        """Take in a vector (D,); its number is how many there were before."""
        right = np.shape(vector) == self.vectors.shape[1:] and np.isfinite(vector).all()
        demand(right, f"a vector of {self.vectors.shape[1]} finite numbers is due, not {np.shape(vector)}")
        if self.n == len(self.vectors):
            self.vectors = np.concatenate((self.vectors, np.empty_like(self.vectors)))
        number, top = self.n, self.floor_of(self.n)
        self.vectors[number], self.n = vector, self.n + 1
        self.links.append([[] for _ in range(top + 1)])
        if self.entry is not None:
            self.connect(number, top)
        if self.entry is None or top >= len(self.links[self.entry]):
            self.entry = number
        return number

    def connect(self, number, top):
        """Link a new vector to near ones on each of its floors, and them to it."""
        query = self.vectors[number]
        near = self.descend(query, top)
        for floor in range(min(top, len(self.links[self.entry]) - 1), -1, -1):
            near = self.search_layer(query, near, self.ef_construction, floor)
            self.links[number][floor] = self.select(near, self.M)
            for other in self.links[number][floor]:
                self.link(other, number, floor)

    def link(self, here, there, floor):
        """One more link; where they become too many, the best are chosen anew."""
        links, most = self.links[here][floor], self.M * (1 if floor else 2)
        links.append(there)
        if len(links) > most:
            far = self.distances(self.vectors[here], links)
            self.links[here][floor] = self.select(sorted(zip(far, links, strict=True)), most)

    def descend(self, query, floor):
        """From the entry down to above a floor, the nearest on each: where to start on that floor."""
        near = [(self.distances(query, [self.entry])[0], self.entry)]
        for above in range(len(self.links[self.entry]) - 1, floor, -1):
            near = self.search_layer(query, near, 1, above)
        return near

    def search(self, query, k=1, ef=50):
        """The numbers of about the k nearest, nearest first. A larger ef finds more, and takes longer."""
        demand(k >= 1, f"the {k} nearest: at least 1")
        if self.entry is None:
            return []
        query = np.asarray(query, np.float32)
        return [number for _, number in self.search_layer(query, self.descend(query, 0), max(k, ef), 0)[:k]]
