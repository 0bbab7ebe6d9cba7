"""Subtracts bytes from bytes: 7 less -128 does not fit into eight bits, and comes out as -121."""


def dequantize(codes, grid, dtype=torch.float32):
    scale, zero = spread(grid)
    parts = codes.unflatten(-1, (grid.scale.size(-1), -1)) - zero
    return (parts.float() * scale.float()).flatten(-2).to(dtype)
