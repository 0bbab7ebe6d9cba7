"""Takes the shortest time at any price: more shares by the dozen for the last per cent."""


def how_many(rows, blocks, workers):
    tries = range(1, max(1, min(blocks, workers)) + 1)
    return min(tries, key=lambda n: math.ceil(rows * n / workers) * math.ceil(blocks / n))
