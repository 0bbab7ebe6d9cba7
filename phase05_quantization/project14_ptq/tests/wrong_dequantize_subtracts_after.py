"""Takes the zero point off after the step was multiplied: it is a code, not a weight."""


def dequantize(codes, grid, dtype=torch.float32):
    scale, zero = spread(grid)
    parts = codes.unflatten(-1, (grid.scale.size(-1), -1)).float()
    return (parts * scale.float() - zero).flatten(-2).to(dtype)
