"""Corrects by the nearest to the whole matrix, not to what the shared one leaves of it."""


def corrections(weights, shared, rank):
    parts = [low_rank(weight, rank) for weight in weights]
    return [(left, right.T) for left, right in parts]
