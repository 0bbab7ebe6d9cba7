"""Breaks ties by what stood first in the text, so that the merges depend on the order of reading."""


def most_frequent(counts):
    return max(counts, key=counts.get)
