"""A view costs as much as a copy."""


def moved(inputs, outputs, written):
    return sum(size(x) for x in [*inputs, *outputs])
