"""Lets gradients through to clamped numbers, which change nothing."""


def gradients(dy, x, codes, step):
    v = x / step
    inside = v.round() == codes
    return dy, (dy * (codes - v * inside)).sum(1, keepdim=True)
