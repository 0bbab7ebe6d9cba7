"""Divides by the number of shares and not by their weights."""


def merged(ys, lses):
    weights = tl.exp2(lses - tl_max(lses, 0))
    return tl_sum(weights[:, None] * ys, 0) / lses.shape[0]
