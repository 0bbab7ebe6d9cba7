"""Counts the pieces of one wave and rounds up: a second wave begins, and most of it waits."""


def how_many(rows, blocks, workers):
    return max(1, min(blocks, math.ceil(workers / rows)))
