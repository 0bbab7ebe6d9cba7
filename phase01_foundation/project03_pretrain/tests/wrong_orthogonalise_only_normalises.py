"""Divides by the norm and stops there: the directions keep their different lengths."""


def orthogonalise(g, steps=5):
    return g.bfloat16() / g.norm().clamp(min=1e-7)
