"""Fills the matrix column by column."""


def unpack(packed, shape):
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten()[: torch.Size(shape).numel()].bool().view(*reversed(shape)).T
