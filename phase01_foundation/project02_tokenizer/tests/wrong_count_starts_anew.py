"""Throws away what was counted before this word."""


def count_pairs(ids, counts=None, times=1):
    counts = {}
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + times
    return counts
