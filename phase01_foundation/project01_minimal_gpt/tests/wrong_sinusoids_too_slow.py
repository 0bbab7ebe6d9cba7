"""Counts the pairs by i where the formula says 2i: every hand but the first turns too fast."""


def sinusoids(positions, d_model):
    rates = 10_000 ** (-torch.arange(d_model // 2) / d_model)
    angles = positions[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
