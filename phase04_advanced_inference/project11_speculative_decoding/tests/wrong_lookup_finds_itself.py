"""Finds the last ids where they stand now, behind which there is nothing."""


def lookup(ids, K, longest=3):
    for n in range(min(longest, len(ids) - 1), 0, -1):
        tail = ids[-n:]
        for start in range(len(ids), -1, -1):
            if ids[start : start + n] == tail:
                return ids[start + n : start + n + K]
    return []
