"""Corrects by the nearest to the whole matrix, not to what the mean leaves of it."""


def corrections(weights, rank):
    mean = torch.stack(list(weights)).mean(0)
    parts = [low_rank(weight, rank) for weight in weights]
    return mean, [(left, right.T) for left, right in parts]
