"""The exponent is (D - 2) / D."""


def ntk(theta, head_dim, factor, context, device=None):
    return plain(theta * factor ** ((head_dim - 2) / head_dim), head_dim, device)
