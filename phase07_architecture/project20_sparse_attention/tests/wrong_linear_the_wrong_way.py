"""Pairs become faster and not slower."""


def linear(theta, head_dim, factor, context, device=None):
    return plain(theta, head_dim, device) * factor
