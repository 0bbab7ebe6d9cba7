"""Takes the distance of the two instead of what p has more."""


def residual(p, q):
    more = (p - q).abs()
    return more if more.sum() > 0 else p
