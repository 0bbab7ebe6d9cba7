"""Rounds to the nearest group: the first is half as large, and there is one too many."""


def adjacent(n_layer, groups):
    check_plan(n_layer, groups)
    return tuple(round(i * groups / n_layer) for i in range(n_layer))
