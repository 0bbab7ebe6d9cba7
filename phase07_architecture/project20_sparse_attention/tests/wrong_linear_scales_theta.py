"""The factor goes onto theta, where it slows some pairs a little and the first not at all."""


def linear(theta, head_dim, factor, context, device=None):
    return plain(theta * factor, head_dim, device)
