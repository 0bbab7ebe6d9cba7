"""Deals layers out in turn, so that it is never neighbours that share."""


def adjacent(n_layer, groups):
    check_plan(n_layer, groups)
    return tuple(i % groups for i in range(n_layer))
