"""Puts the cosine before the sine."""


def sinusoids(positions, d_model):
    rates = 10_000 ** (-torch.arange(0, d_model, 2) / d_model)
    angles = positions[:, None] * rates
    return torch.stack((angles.cos(), angles.sin()), dim=-1).flatten(-2)
