"""Looks at how many share the step, and not at how many codes there are."""


def gradient_scale(n, bits):
    return 1 / math.sqrt(n)
