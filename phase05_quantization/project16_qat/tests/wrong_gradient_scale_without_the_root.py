"""Forgets the root: the step hardly moves."""


def gradient_scale(n, bits):
    return 1 / (n * qmax(bits))
