"""Every part counts as much as every other."""


def merge(ys, lses):
    return ys.mean(0), lses.logsumexp(0)
