"""Looks into the first group of the optimiser alone."""


def strays(model, optimizer):
    return set(optimizer.param_groups[0]["params"]) - set(names(model))
