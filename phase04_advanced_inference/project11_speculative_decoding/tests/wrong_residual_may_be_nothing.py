"""Gives a residual of zero where the two are equal, from which nothing can be drawn."""


def residual(p, q):
    return (p - q).clamp(min=0)
