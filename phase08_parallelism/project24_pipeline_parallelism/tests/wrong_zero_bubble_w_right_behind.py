"""Does W right behind I: nothing is left to fill the bubble with, it is 1F1B in smaller pieces."""


def zero_bubble(rank, p, m):
    order = []
    for action in one_f_one_b(rank, p, m):
        order += [action] if action.kind == "F" else [action._replace(kind=kind) for kind in "IW"]
    return order
