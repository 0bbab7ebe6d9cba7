"""Normalises over this tile alone instead of using lse, which knows the sum over all tiles."""


def tile_gradients(q, k, v, scores, lse, dy, delta):
    p = scores.softmax(-1)  # (..., R, M), the probabilities themselves, as lse knows the whole sum
    dv = p.mT @ dy
    dscores = (dy @ v.mT).sub_(delta).mul_(p)  # softmax: p (dp - sum of p dp), and that sum is delta
    return dscores @ k, dscores.mT @ q, dv
