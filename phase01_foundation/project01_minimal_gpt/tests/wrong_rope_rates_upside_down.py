"""Lets the angles grow with the pair instead of shrinking."""


def rope_angles(positions, head_dim, theta=10_000.0):
    rates = theta ** (torch.arange(0, head_dim, 2) / head_dim)
    return positions[:, None] * rates
