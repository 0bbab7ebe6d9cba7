"""Forgets the product at the end of a block: errors stay within it."""


def solve(w, U, grid, bits, group_at, fresh=None):
    w, U, codes = w.float().clone(), U.float(), torch.zeros_like(w, dtype=torch.int8)
    step = int((group_at == 0).sum()) if fresh else BLOCK
    for start in range(0, w.size(1), step):
        stop = min(start + step, w.size(1))
        if fresh:
            made = fresh(w[:, start:stop])
            for old, new in zip(grid, made, strict=True):
                if old is not None:
                    old[:, start // step] = new[:, 0]
        for j in range(start, stop):
            part = columns(grid, [int(group_at[j])])
            codes[:, j : j + 1] = quantize(w[:, j : j + 1], part, bits)
            q = dequantize(codes[:, j : j + 1], part)[:, 0]
            w[:, j + 1 : stop] -= ((w[:, j] - q) / U[j, j])[:, None] * U[j, j + 1 : stop]
    return codes, grid
