"""Counts what the part shares with all other inputs as its own."""


def energy(w, H, width=1):
    shared = (w @ H.to(w.dtype) * w).sum(0)
    return shared.unflatten(0, (-1, width)).sum(1)
