"""Looks for large positive inputs only."""


def outliers(x, threshold=THRESHOLD):
    return (x >= threshold).any(0)
