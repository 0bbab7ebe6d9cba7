"""Counts equal ids wherever they stand, also behind the first that differs."""


def still_true(fed, ids):
    return min(sum(a == b for a, b in zip(fed, ids, strict=False)), len(ids) - 1)
