"""What is in the list of a tile is seen by all of it."""


def scores(tile, keys, look):
    return tile @ keys.mT
