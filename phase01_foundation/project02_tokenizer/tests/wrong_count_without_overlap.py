"""Steps over both ids of a pair, so that every second pair is missed."""


def count_pairs(ids, counts=None, times=1):
    counts = {} if counts is None else counts
    for i in range(0, len(ids) - 1, 2):
        counts[ids[i], ids[i + 1]] = counts.get((ids[i], ids[i + 1]), 0) + times
    return counts
