"""Makes the matrix in float32, whatever the values are in."""


def expand(packed, values, shape):
    return torch.zeros(shape).masked_scatter_(unpack(packed, shape), values.float())
