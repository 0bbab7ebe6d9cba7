"""Counts hits for ever: what was loved last year can never go."""


def frequent(item, now):
    return item.weight
