"""Divides by the largest: the least is not 0."""


def minmax(scores):
    return scores / scores.max()
