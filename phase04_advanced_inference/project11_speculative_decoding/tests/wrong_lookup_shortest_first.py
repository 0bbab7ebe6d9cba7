"""Looks for the last id alone before it looks for the last three."""


def lookup(ids, K, longest=3):
    for n in range(1, min(longest, len(ids) - 1) + 1):
        tail = ids[-n:]
        for start in range(len(ids) - n):
            if ids[start : start + n] == tail:
                return ids[start + n : start + n + K]
    return []
