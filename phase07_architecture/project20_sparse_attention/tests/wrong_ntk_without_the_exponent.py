"""Theta times the factor: the last pair is slowed by less than the factor."""


def ntk(theta, head_dim, factor, context, device=None):
    return plain(theta * factor, head_dim, device)
