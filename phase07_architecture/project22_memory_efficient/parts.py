"""Attention to a part of the keys, and how parts are put together: exactly, and in any order.

Came before: project 9 takes one tile of keys after another into a running sum (m, l, y), so that each tile
needs to know what came before it. New here: `part` answers for some of the keys as if there were no others,
and says beside its answer how much weight those keys have, their log-sum-exp. From such answers alone `merge`
makes the answer for all keys. No part waits for another, so parts may be forgotten and computed again
(`chunked.py`), or computed at the same time (`split_k.py`, `triton_kernel.py`).

    q (B, K, G * T, D)   the G = H / K query heads that read one key head, as rows of one matrix: keys and
                         values are read as they lie in memory, and never repeated for each query head
    lse                  log of the sum of exp(score) over the keys of a part; LOW where it has none to see

Rabe & Staats 2021, arXiv 2112.05682, section 2; Milakov & Gimelshein 2018, arXiv 1805.02867, section 3.1 (the
operation on pairs, associative and commutative, of which `merge` is the form with many operands)."""

import math

import torch

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project09_flash_attention.tiled import LOW, in_reach, key_tiles

FEW_ROWS = 8


def scores_of(q, k):
    """q (..., R, D) against k (..., M, D), in q's dtype: (..., R, M)."""
    k = k.to(q.dtype)
    if q.size(-2) > FEW_ROWS:
        return q @ k.mT
    return (k @ q.mT).mT.contiguous()  # the same numbers; with few rows CPUs read keys up to twice as fast so


@exercise
def part(q, k, v, look=None):
    """Attention as if these keys were all: y (..., R, D), and lse (..., R, 1). The naive version, over all.

    q (..., R, D), already divided by sqrt(D); k and v (..., M, D), of any float type: computed in q's
    (`scores_of`). look (broadcasts to (..., R, M)): True where the row may look, None for everywhere. A row
    that may look at none of these keys has y 0 and lse LOW. M may be 0.
    """
    scores = scores_of(q, k)  # (..., R, M)
    if look is not None:
        scores = scores.masked_fill(~look, -math.inf)
    lse = scores.logsumexp(-1, keepdim=True).clamp_min(LOW)  # (..., R, 1)
    return (scores - lse).exp() @ v.to(q.dtype), lse


@exercise
def merge(ys, lses):
    """Parts -> the answer for all their keys together, y (..., R, D) and lse (..., R, 1), again a part.

    ys (N, ..., R, D) and lses (N, ..., R, 1), as `part` gives them. No lse is exponentiated before a maximum
    is taken off it. Where all parts are LOW, y is 0 and lse LOW.
    """
    return (lses.softmax(0) * ys).sum(0), lses.logsumexp(0)


# ---- heads and sight ---------------------------------------------------------------------------------------

def group(q, k):
    """q (B, H, T, D) -> (B, K, G, T, D), divided by sqrt(D), in float32 at least; k (B, K, S, D) says K.

    UserError where H is no multiple of K.
    """
    (H, D), K = (q.size(1), q.size(3)), k.size(1)
    demand(H % K == 0, f"{H} query heads do not divide among {K} key heads: H must be a multiple of K")
    return (q.to(torch.promote_types(q.dtype, torch.float32)) / math.sqrt(D)).unflatten(1, (K, H // K))


def ungroup(y, q):
    """y (B, K, G, T, D) -> (B, H, T, D), in q's dtype."""
    return y.flatten(1, 2).type_as(q)


def spans(size, S, reach, mask=None):
    """[(start, stop, whole)]: the parts, of `size` keys each, that these queries need; one, empty, of none.

    reach (B or 1, T): query t sees keys 0 .. reach[t] - 1, and no part lies beyond the furthest. whole: every
    query sees all of it. A mask replaces the reach: then all S keys are needed, and none are known to be
    whole.
    """
    every = [(start, min(start + size, S), False) for start in range(0, S, size)]
    return (every if mask is not None else key_tiles(reach, size)) or [(0, 0, False)]


def look_at(start, stop, reach, mask, G):
    """Who sees whom among keys start .. stop - 1, for `part`: (B or 1, 1 or K, G * T, M), True = look.

    reach (B or 1, T); a mask (B, K, G, T, S) replaces it where it is given.
    """
    if mask is not None:
        return mask[..., start:stop].flatten(2, 3)  # (B, K, G * T, M)
    look = in_reach(reach, start, stop)[:, None, None]  # (B or 1, 1, 1, T, M)
    return look.expand(-1, -1, G, -1, -1).flatten(2, 3)
