"""Counts the last id as held where it was fed, so that there is nothing left to feed."""


def still_true(fed, ids):
    n = 0
    while n < min(len(fed), len(ids)) and fed[n] == ids[n]:
        n += 1
    return n
