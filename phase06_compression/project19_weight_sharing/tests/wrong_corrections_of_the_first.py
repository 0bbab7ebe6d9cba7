"""Shares the first layer's matrix in place of the mean: the others are twice as far from it."""


def corrections(weights, rank):
    mean = weights[0].clone()
    parts = [low_rank(weight - mean, rank) for weight in weights]
    return mean, [(left, right.T) for left, right in parts]
