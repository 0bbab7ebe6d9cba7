"""Fades to 1/e after a half-life, not to a half."""


def frequent(item, now):
    return item.weight * math.exp(-(now - item.used) / HALF_LIFE)
