"""Leaves the weights as they were: nobody makes up for what went."""


def refit(w, H, keep, damp=1e-4):
    return w.double()[:, keep]
