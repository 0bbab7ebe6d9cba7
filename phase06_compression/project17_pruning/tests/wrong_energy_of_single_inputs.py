"""Adds up the inputs of a part one by one, as if they had nothing to do with each other."""


def energy(w, H, width=1):
    alone = w.square().sum(0) * H.diagonal().to(w.dtype)
    return alone.unflatten(0, (-1, width)).sum(1)
