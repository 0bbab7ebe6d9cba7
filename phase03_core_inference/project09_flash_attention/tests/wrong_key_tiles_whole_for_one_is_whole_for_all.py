"""Asks whether some query sees all of the tile, and not whether every one does."""


def key_tiles(reach, size):
    furthest = int(reach.max())
    stops = ((start, min(start + size, furthest)) for start in range(0, furthest, size))
    return [(start, stop, stop <= furthest) for start, stop in stops]
