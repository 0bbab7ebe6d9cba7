"""Rises evenly: as much goes at the end as at the beginning."""


def cubic(update, last, final, first=0, start=0.0):
    part = min(max((update - first) / (last - first), 0.0), 1.0)
    return final + (start - final) * (1 - part)
