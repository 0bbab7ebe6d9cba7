"""Words, vectors, and what fuses them: recall with intervals; and the errors of the semantic cache."""

import re
from random import Random

import numpy as np

from common import plots
from data.town_facts import QUESTIONS

from ._dense import KINDS, ask
from .retrieval import (
    BM25,
    LearnedFusion,
    features,
    fuse,
    minmax,
    ranks,
    raw,
    reciprocal_rank,
    zscore,
)
from .semantic_cache import SemanticCache


def terms(text):
    """The words of a text, in small letters."""
    return re.findall(r"\w+", text.lower())


class Sides:
    """Both sides' scores of every question, (Q, N) each, and the questions' features (Q, 4)."""

    def __init__(self, corpus, vectors_of):
        self.corpus, asked = corpus, [terms(question) for question in corpus.questions]
        index = BM25([terms(text) for text in corpus.texts])
        self.sparse = np.stack([index.scores(words) for words in asked])
        self.dense = vectors_of(corpus.questions) @ vectors_of(corpus.texts).T
        self.features = np.stack([features(index, words) for words in asked])
        self.lengths = np.array([len(words) for words in asked])

    def fused(self, weight, scale):
        """(Q, N); weight: one number, or one for each question."""
        weights = np.broadcast_to(weight, len(self.sparse))
        return np.stack([fuse(s, d, w, scale) for s, d, w in
                         zip(self.sparse, self.dense, weights, strict=True)])  # fmt: skip

    def learned(self):
        """The learned weight of every question; each half of the questions is judged by the other's."""
        weights, half = np.empty(len(self.sparse)), np.arange(len(self.sparse)) % 2
        for side in (0, 1):
            fit = half != side
            model = LearnedFusion().fit(self.features[fit], self.sparse[fit], self.dense[fit],
                                        self.corpus.right[fit])  # fmt: skip
            weights[half == side] = [model.weight(feature) for feature in self.features[half == side]]
        return weights

    def ladder(self):
        """{name: places (Q,) of the right passages}, from one side alone to a learned weight."""
        by_length = np.minimum(1.0, self.lengths / 12)  # long questions are sentences, short ones are words
        ways = {
            "BM25 alone": self.sparse, "dense alone": self.dense, "raw sum": self.fused(0.5, raw),
            "min-max, half and half": self.fused(0.5, minmax),
            "z-score, half and half": self.fused(0.5, zscore),
            "z-score, by length": self.fused(by_length, zscore),
            "reciprocal ranks": np.stack([reciprocal_rank(s, d) for s, d in
                                          zip(self.sparse, self.dense, strict=True)]),
            "z-score, learned": self.fused(self.learned(), zscore)}  # fmt: skip
        return {name: self.places(scores) for name, scores in ways.items()}

    def places(self, scores):
        """The place of each question's right passage, 1 for the best."""
        return np.array([ranks(row)[at] for row, at in zip(scores, self.corpus.right, strict=True)])


def interval(values, resamples=2000):
    """(mean, low, high): 95 % by bootstrap over the questions."""
    values = np.asarray(values, float)
    draws = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    return values.mean(), *np.quantile(values[draws].mean(1), [0.025, 0.975])


def tell_ladder(sides, say):
    """Print recall at 1 and at 10 of every rung, with intervals, and at 1 by kind; {name: recall at 1}."""
    found = {}
    say(f"  {len(sides.corpus.texts)} passages, {len(sides.corpus.questions)} questions")
    say(f"  {'':24}{'recall at 1':^24}{'recall at 10':^24}" + "".join(f"{kind:>11}" for kind in KINDS))
    for name, places in sides.ladder().items():
        cells = []
        for k in (1, 10):
            mean, low, high = interval(places <= k)
            cells.append(f"{f'{mean:.3f} [{low:.3f}, {high:.3f}]':^24}")
            found.setdefault(name, mean)
        by_kind = "".join(f"{(places[sides.corpus.of(kind)] <= 1).mean():11.3f}" for kind in KINDS)
        say(f"  {name:24}{''.join(cells)}{by_kind}")
    return found


def weight_map(sides):
    """Recall at 1 of every rung, with intervals; by a fixed weight; and the weights that were learned."""
    weights, learned = np.linspace(0, 1, 11), sides.learned()
    fig, ((rungs, fixed, chosen),) = plots.figure(1, 3, width=16.0, height=4.6)
    ladder = [(name, *interval(places <= 1)) for name, places in sides.ladder().items()][::-1]
    names, mean, low, high = (list(column) for column in zip(*ladder, strict=True))
    rungs.barh(names, mean, color=plots.COLOURS[0], height=0.62)
    rungs.hlines(names, low, high, color=plots.INK, linewidth=1.5)
    rungs.set(title="Right passage first, with 95 % intervals", xlabel="recall at 1", xlim=(0, 1))
    rungs.grid(False, axis="y")
    tables = [sides.places(sides.fused(weight, zscore)) <= 1 for weight in weights]
    for i, kind in enumerate(KINDS):
        of = sides.corpus.of(kind)
        fixed.plot(weights, [table[of].mean() for table in tables], "o-", label=kind)
        chosen.hist(learned[of], bins=np.linspace(0, 1, 41), alpha=0.65, label=kind, color=plots.COLOURS[i])
    fixed.set(title="By a fixed weight, for each kind", xlabel="weight of the dense side",
              ylabel="recall at 1", ylim=(0, 1.03))  # fmt: skip
    chosen.set(title="The weight that was learned", xlabel="weight of the dense side", ylabel="questions",
               xlim=(0, 1))  # fmt: skip
    plots.legend(fixed)
    return fig


# ---- the semantic cache ----

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


def stream(town, n, seed=0):
    """n times (question, (name, relation)): few pairs are asked often, most seldom, in changing words."""
    rng = Random(f"stream {seed}")
    pairs = [pair for split in town.pairs.values() for pair in split]
    rng.shuffle(pairs)
    weights = [1 / (i + 1) for i in range(len(pairs))]
    asked = rng.choices(pairs, weights, k=n)
    return [(ask(rng, *pair, QUESTIONS), (pair[0].name, pair[1])) for pair in asked]


def semantic(asked, vectors, threshold):
    """The cache's report after the stream: an answer is computed and kept where none was near enough."""
    cache = SemanticCache(vectors.shape[1], threshold, enabled=True, same=lambda one, other: one == other)
    for (_, meaning), vector in zip(asked, vectors, strict=True):
        if cache.lookup(meaning, vector) is None:
            cache.store(meaning, vector, meaning)
    return cache.report()
