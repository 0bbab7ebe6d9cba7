"""exp of the weights as they are: infinite from 89 on."""


def merge(ys, lses):
    weights = lses.exp()
    return (weights * ys).sum(0) / weights.sum(0), weights.sum(0).log()
