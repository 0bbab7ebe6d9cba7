"""Takes the largest number: the grid of project 14, far too coarse at 2 bits."""


def first_step(x, bits):
    return x.abs().amax(1, keepdim=True) / qmax(bits)
