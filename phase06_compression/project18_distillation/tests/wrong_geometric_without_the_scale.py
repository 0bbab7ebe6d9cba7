"""Leaves the shares as they are: they sum to less than 1 wherever teachers differ."""


def geometric(log_ps, weights):
    return (weights[..., None] * log_ps).sum(0)
