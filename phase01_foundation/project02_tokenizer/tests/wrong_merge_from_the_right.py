"""Merges from right to left: of three in a row the last two become one."""


def merge(ids, pair, new):
    merged, i = [], len(ids) - 1
    while i >= 0:
        if i > 0 and (ids[i - 1], ids[i]) == pair:
            merged.append(new)
            i -= 2
        else:
            merged.append(ids[i])
            i -= 1
    return merged[::-1]
