"""Counts each word once, however often it occurs."""


def count_pairs(ids, counts=None, times=1):
    counts = {} if counts is None else counts
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + 1
    return counts
