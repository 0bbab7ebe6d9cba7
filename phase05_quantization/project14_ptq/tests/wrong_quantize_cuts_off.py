"""Cuts the fraction off, as a cast to whole numbers does: errors of up to a step, and all towards zero."""


def quantize(w, grid, bits):
    scale, zero = spread(grid)
    parts = w.to(torch.promote_types(w.dtype, torch.float32)).unflatten(-1, (grid.scale.size(-1), -1))
    codes = ((parts / scale).trunc() + zero).clamp(-qmax(bits) - 1, qmax(bits))
    return codes.to(torch.int8).flatten(-2)
