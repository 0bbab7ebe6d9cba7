"""Clamped numbers say nothing to the step, so that it never grows for them."""


def gradients(dy, x, codes, step):
    v = x / step
    inside = v.round() == codes
    return dy * inside, (dy * (codes - v) * inside).sum(1, keepdim=True)
