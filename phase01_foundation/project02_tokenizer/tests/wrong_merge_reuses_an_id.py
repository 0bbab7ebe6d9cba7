"""Moves on by one place after a merge, so that the second id of the pair stays behind."""


def merge(ids, pair, new):
    merged, i = [], 0
    while i < len(ids):
        found = i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair
        merged.append(new if found else ids[i])
        i += 1
    return merged
