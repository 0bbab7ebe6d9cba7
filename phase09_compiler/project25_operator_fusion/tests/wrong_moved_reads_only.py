"""What is written is not counted."""


def moved(inputs, outputs, written):
    return sum(size(x) for x in inputs)
