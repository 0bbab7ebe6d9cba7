"""Stops when there are no more forwards: the last backwards are never done."""


def weave(forwards, backwards, warm):
    order = forwards[:warm]
    for forward, backward in zip(forwards[warm:], backwards, strict=False):
        order += [forward, backward]
    return order
