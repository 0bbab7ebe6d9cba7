"""Stops where the first query stops seeing: the others lose the keys in between."""


def key_tiles(reach, size):
    nearest = int(reach.min())
    stops = ((start, min(start + size, nearest)) for start in range(0, nearest, size))
    return [(start, stop, stop <= nearest) for start, stop in stops]
