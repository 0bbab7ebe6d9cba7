"""Calls a tile whole as soon as its first key is seen: the diagonal tile is not masked."""


def key_tiles(reach, size):
    nearest, furthest = int(reach.min()), int(reach.max())
    stops = ((start, min(start + size, furthest)) for start in range(0, furthest, size))
    return [(start, stop, start < nearest) for start, stop in stops]
