"""Breaks ties by the byte's number, where the space comes first, and not by the printable alphabet."""


def most_frequent(counts):
    return min(counts, key=lambda pair: (-counts[pair], pair))
