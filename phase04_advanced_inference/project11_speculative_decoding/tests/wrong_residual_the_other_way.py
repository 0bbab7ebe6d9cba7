"""Takes what the draft has more."""


def residual(p, q):
    more = (q - p).clamp(min=0)
    return more if more.sum() > 0 else p
