"""Forgets that a larger step makes the number fewer steps long."""


def gradients(dy, x, codes, step):
    inside = (x / step).round() == codes
    return dy * inside, (dy * codes).sum(1, keepdim=True)
