"""From logits to the shares that a token is drawn from, and how undecided they are. By hand, in NumPy.

Came before: `common.sampling`, which draws for a whole batch on any device. New here: the same rule for one
row, simple enough to be worked out anew each time somebody moves a slider, by a page that has no torch. Each
setting cuts in its own way: temperature makes the likely likelier (below 1) or the shares more equal (above),
top-k keeps a number of tokens, top-p as many as make up a share, min-p those that are not far behind the
best. Entropy says what is left of the choice: H bits are as undecided as 2^H tokens of equal share.

Seam: none. Shannon 1948; Fan et al. 2018, 1805.04833 (top-k); Holtzman et al. 2020, 1904.09751 (top-p);
Nguyen et al. 2024, 2407.01082 (min-p).
"""

import numpy as np

from common.errors import demand
from common.exercise import exercise


def softmax(logits):
    """Shares (V,) of logits (V,): of any size, as the largest is taken off first."""
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


@exercise
def entropy(shares):
    """Bits of choice in shares (V,) that add up to 1: -sum p log2 p, where 0 log 0 is 0."""
    there = shares[shares > 0]
    return float(abs((there * np.log2(there)).sum()))  # abs: no -0.0


def effective(shares):
    """How many tokens of equal share would be as undecided: 2^H."""
    return 2.0 ** entropy(shares)


@exercise
def shaped(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The shares (V,) that a token is drawn from, of logits (V,); they add up to 1.

    In this order, each on what the one before has left. Logits are divided by the temperature; 0: the first
    of the highest has all. top_k: the k highest stay; 0: all. top_p: of the shares among those that stayed,
    from the highest on, so many stay as make up top_p at least; a token stays if those before it have less.
    min_p: those stay that have at least min_p times the highest share. Equal logits share a fate: the last
    that stays takes all its equals along, in each of the three. What stays is brought back to a sum of 1.
    """
    if temperature == 0:
        return np.eye(1, len(logits), int(logits.argmax()))[0]
    scaled = (logits - logits.max()).astype(float) / temperature  # 0 at most: nothing overflows
    if top_k:
        scaled = np.where(scaled >= np.sort(scaled)[::-1][min(top_k, len(scaled)) - 1], scaled, -np.inf)
    if top_p < 1:
        ordered = np.sort(scaled)[::-1]
        shares = softmax(ordered)
        before = np.cumsum(shares) - shares
        scaled = np.where(scaled >= ordered[before < top_p].min(), scaled, -np.inf)
    if min_p:
        scaled = np.where(scaled >= scaled.max() + np.log(min_p), scaled, -np.inf)
    return softmax(scaled)


def distinct(shares, draws):
    """How many different tokens come up in so many draws, on average: the sum of 1 - (1 - p)^draws."""
    demand(draws >= 1, f"{draws} draws: at least 1")
    return float((1 - (1 - shares) ** draws).sum())


def drawn(shares, uniform):
    """The index at which the summed shares pass `uniform`, a number in [0, 1)."""
    passed = int(np.searchsorted(np.cumsum(shares), uniform * shares.sum(), side="right"))
    return min(passed, int(np.flatnonzero(shares)[-1]))
