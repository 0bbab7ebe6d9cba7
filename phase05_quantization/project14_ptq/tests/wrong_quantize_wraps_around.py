"""Does not keep the codes within their bits: what is too large comes out of the bytes as something else."""


def quantize(w, grid, bits):
    scale, zero = spread(grid)
    parts = w.to(torch.promote_types(w.dtype, torch.float32)).unflatten(-1, (grid.scale.size(-1), -1))
    return ((parts / scale).round() + zero).to(torch.int8).flatten(-2)
