"""Adds up over all rows, as if they shared one step."""


def gradients(dy, x, codes, step):
    v = x / step
    inside = v.round() == codes
    return dy * inside, (dy * (codes - v * inside)).sum().expand_as(step)
