"""Scales by the weights' steps alone: the rows of x come out as if all were equally loud."""


def int8_linear(x, codes, scale):
    x8, _ = absmax_rows(x)
    return product(x8, codes).float() * scale
