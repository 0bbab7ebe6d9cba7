"""Does not divide the error by U[j, j]: too little is passed on, or too much."""


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
        errors = torch.zeros_like(w[:, start:stop])
        for j in range(start, stop):
            part = columns(grid, [int(group_at[j])])
            codes[:, j : j + 1] = quantize(w[:, j : j + 1], part, bits)
            q = dequantize(codes[:, j : j + 1], part)[:, 0]
            errors[:, j - start] = w[:, j] - q
            w[:, j + 1 : stop] -= errors[:, j - start, None] * U[j, j + 1 : stop]
        w[:, stop:] -= errors @ U[start:stop, stop:]
    return codes, grid
