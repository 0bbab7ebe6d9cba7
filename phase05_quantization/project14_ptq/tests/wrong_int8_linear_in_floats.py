"""Multiplies the inputs as they are: nothing is rounded, and nothing is gained."""


def int8_linear(x, codes, scale):
    return x.float() @ (codes.float() * scale[:, None]).T
