"""Retrieval: which passages of a corpus answer a question, by their words and by their meaning.

Came before: a prompt that holds everything. New here: BM25 scores a passage by the rare words that it shares
with the question; a dense vector scores it by nearness. Each knows what the other misses, so they are fused.
The catch: BM25 is a sum without an upper end, a cosine lies in -1 to 1. Added raw, BM25 alone decides. So
scores are first brought to one scale, or only their ranks count, or the weight is learned from the question.

Robertson and Zaragoza 2009 (BM25); Kamphuis et al. 2020 (its variants: ours is Lucene's); Cormack et al. 2009
(reciprocal rank fusion); Bruch et al. 2022, 2210.11934 (convex fusion); van den Oord et al. 2018 (InfoNCE).
"""

import math
from collections import Counter, defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from common.errors import demand
from common.exercise import exercise


class BM25:
    """An inverted index over passages, each a list of words or ids. k1: how soon repeats stop to count; b:
    how much a long passage is marked down."""

    def __init__(self, passages, k1=1.5, b=0.75):
        demand(passages, "no passages: there is nothing to search")
        demand(k1 >= 0 and 0 <= b <= 1, f"k1 {k1} must not be negative, and b {b} lies in 0 to 1")
        self.k1, self.b, self.N = k1, b, len(passages)
        self.lengths = np.array([len(passage) for passage in passages], float)
        self.mean = max(self.lengths.mean(), 1e-9)
        self.postings = defaultdict(list)  # word -> [(passage, how often)]
        for number, passage in enumerate(passages):
            for word, times in Counter(passage).items():
                self.postings[word].append((number, times))

    def idf(self, word):
        """How rare a word is: ln(1 + (N - n + 0.5) / (n + 0.5)) where n passages have it; 0 if none has."""
        n = len(self.postings.get(word, ()))
        return math.log(1 + (self.N - n + 0.5) / (n + 0.5)) if n else 0.0

    @exercise
    def scores(self, query):
        """Each passage's score for a question, a list of words: (N,), in Lucene's variant.

        Sum over the question's words, a repeated one as often as it stands there, of idf x tf / (tf + k1 x
        (1 - b + b x length / mean length)), tf being how often the passage has the word.
        """
        found = np.zeros(self.N)
        for word in query:
            for number, tf in self.postings.get(word, ()):
                scale = self.k1 * (1 - self.b + self.b * self.lengths[number] / self.mean)
                found[number] += self.idf(word) * tf / (tf + scale)
        return found


# ---- dense: our own model's hidden states, and the loss that makes near mean alike ----


def embed(model, rows):
    """One unit vector for each list of ids, the mean of its hidden states: (N, C).

    Short rows are padded on the right: a token looks back only, so what is behind a row cannot reach it.
    """
    demand(rows and all(rows), "an empty text has no vector")
    device = model.embed.weight.device
    tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)  # (N, T)
    lengths = torch.tensor([len(row) for row in rows], device=device)[:, None]  # (N, 1)
    there = torch.arange(tokens.size(1), device=device) < lengths  # (N, T)
    summed = (model.hidden(tokens) * there[..., None]).sum(1)  # (N, C)
    return F.normalize(summed / lengths, dim=1)


@exercise
def info_nce(questions, passages, temperature=0.05):
    """The contrastive loss of unit vectors (N, C) and (N, C), pair by pair: a number.

    Cosines over temperature are logits; question i should choose passage i among all N, and passage i
    question i: the mean of the two cross-entropies.
    """
    logits = questions @ passages.T / temperature  # (N, N)
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


# ---- fusion: scores of one question, (N,) each ----


def minmax(scores):
    """Brought to 0 to 1; all 0 where they are all alike."""
    span = scores.max() - scores.min()
    return (scores - scores.min()) / span if span > 0 else np.zeros_like(scores)


@exercise
def zscore(scores):
    """Mean 0 and standard deviation 1 (over N, not N - 1); all 0 where they are all alike."""
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)


def raw(scores):
    """As they come. Whoever has the larger numbers wins."""
    return scores


def ranks(scores):
    """Each passage's place, 1 for the highest score; of equal scores the first comes first."""
    order, places = np.argsort(-scores, kind="stable"), np.empty(len(scores), int)
    places[order] = np.arange(1, len(scores) + 1)
    return places


def reciprocal_rank(*sides, k=60):
    """1 / (k + place), added over the sides: no scale can matter."""
    return sum(1 / (k + ranks(side)) for side in sides)


def fuse(sparse, dense, weight=0.5, scale=zscore):
    """weight x dense + (1 - weight) x sparse, each on one scale."""
    demand(0 <= weight <= 1, f"a weight of {weight}: in 0 to 1")
    return weight * scale(dense) + (1 - weight) * scale(sparse)


def features(bm25, query):
    """What a question looks like: (4,) of a constant, its length, its rarest and its mean idf."""
    idfs = [bm25.idf(word) for word in query] or [0.0]
    return np.array([1.0, math.log1p(len(query)), max(idfs), sum(idfs) / len(idfs)])


class LearnedFusion:
    """The weight of the dense side, a logistic function of the question's features."""

    def __init__(self, n_features=4):
        self.theta = torch.zeros(n_features, dtype=torch.float64)

    def weight(self, feature):
        """In 0 to 1, of one question's features."""
        return torch.sigmoid(torch.as_tensor(feature, dtype=torch.float64) @ self.theta).item()

    def fit(self, features, sparse, dense, right, steps=200, rate=0.1, decay=1e-2):
        """Learn from questions with known answers: (Q, F), scores (Q, N) of both sides, right (Q,).

        The fused z-scores are logits over the passages, and the right one should be chosen. Same data, same
        theta: there is no chance in it.
        """
        features, right = torch.as_tensor(np.asarray(features, float)), torch.as_tensor(np.asarray(right))
        sides = [torch.as_tensor(np.stack([zscore(row) for row in side])) for side in (sparse, dense)]
        theta = self.theta.clone().requires_grad_()
        optimizer = torch.optim.Adam([theta], lr=rate)
        for _ in range(steps):
            w = torch.sigmoid(features @ theta)[:, None]  # (Q, 1)
            loss = F.cross_entropy(w * sides[1] + (1 - w) * sides[0], right) + decay * theta.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.theta = theta.detach()
        return self


def recall_at(scores, right, k):
    """The share of questions whose right passage is among the k best: scores (Q, N), right (Q,)."""
    return float(np.mean([ranks(row)[at] <= k for row, at in zip(scores, right, strict=True)]))
