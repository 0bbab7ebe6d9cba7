"""Puts all W off to the end: the smallest bubble, and m micro-batches held, as with GPipe."""


def zero_bubble(rank, p, m):
    order = [a if a.kind == "F" else a._replace(kind="I") for a in one_f_one_b(rank, p, m)]
    return order + [Action(rank, "W", i) for i in range(m)]
