"""Does not stop at `last`, where the cube changes its sign."""


def cubic(update, last, final, first=0, start=0.0):
    return final + (start - final) * (1 - max((update - first) / (last - first), 0.0)) ** 3
