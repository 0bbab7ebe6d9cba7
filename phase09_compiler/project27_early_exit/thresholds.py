"""A threshold with a promise: at most so many tokens come out differently, with at most this chance of error.

Came before: `exits.Sure`, with a threshold that somebody picked. A measure of sureness is no probability: 0.9
may be right nine times in ten or five. New here: thresholds are tried on text with a known answer, strictest
first, and each has to be certified by a test of the hypothesis that it breaks the promise. The first one that
is not ends the walk, so that no correction for many tests is due.

No seam: here are losses and no model. `tokens_lost` asks one.
Angelopoulos, Bates, Candès, Jordan, Lei 2021, 2110.01052 (Learn then Test); Schuster et al. 2022, 2207.07061.
"""

import math

import torch

from common.errors import demand
from common.exercise import exercise

from .exits import early_exit


def divergence(a, b):
    """KL of two coins, in nats: of one that shows heads with probability a from one that does with b."""
    parts = (p * math.log(p / q) for p, q in ((a, b), (1 - a, 1 - b)) if p > 0)
    return sum(parts)


def at_most(k, n, p):
    """The chance that of n coins, each heads with probability p, at most k show heads: the binomial's sum."""
    logs = (math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
            + i * math.log(p) + (n - i) * math.log1p(-p) for i in range(k + 1))  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))


@exercise
def p_value(risk, n, tolerance):
    """How likely a mean loss as low as `risk` is, over n texts, if in truth it were above `tolerance`.

    Each text's loss lies in [0, 1]. Hoeffding-Bentkus, the smaller of two bounds, and at most 1:
    exp(-n * divergence(min(risk, tolerance), tolerance)), and e * at_most(ceil(n * risk), n, tolerance).
    """
    hoeffding = math.exp(-n * divergence(min(risk, tolerance), tolerance))
    bentkus = math.e * at_most(math.ceil(round(n * risk, 9)), n, tolerance)
    return min(1.0, hoeffding, bentkus)


@exercise
def calibrate(thresholds, losses, tolerance, chance):
    """The lowest threshold that is certified, or None: with probability 1 - chance, its true mean loss is at
    most `tolerance`.

    thresholds: tried from the highest on, whatever their order. losses(threshold) -> (N,), each text's, in
    [0, 1]; called for no threshold after the first whose p_value is above chance.
    """
    demand(0 < tolerance < 1 and 0 < chance < 1, "tolerance and chance lie between 0 and 1")
    certified = None
    for threshold in sorted(thresholds, reverse=True):
        found = losses(threshold)
        if p_value(float(found.mean()), len(found), tolerance) > chance:
            break
        certified = threshold
    return certified


@torch.no_grad()
def tokens_lost(model, rows, rule, batch=16):
    """The share of each row's tokens, rows (N, T), whose likeliest next one is not the full model's: (N,)."""
    lost = []
    for tokens in rows.split(batch):
        early, _ = early_exit(model, tokens, rule)
        lost.append((early.argmax(-1) != model(tokens).argmax(-1)).float().mean(-1))
    return torch.cat(lost)
