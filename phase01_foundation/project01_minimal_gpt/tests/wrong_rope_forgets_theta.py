"""Ignores theta."""


def rope_angles(positions, head_dim, theta=10_000.0):
    rates = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    return positions[:, None] * rates
