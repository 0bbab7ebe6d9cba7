"""As many shares as there are workers, however many rows and heads keep them busy already."""


def how_many(rows, blocks, workers):
    return max(1, min(blocks, workers))
