"""Reads the keys from the first of a chunk on, one after another."""


def sum_chunks(m, l, y, q, k, v, ks, vs, keys, which, masks, start, stop, S, scale, D: constexpr,
               BLOCK_T: constexpr, BLOCK_S: constexpr, HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    for chunk in range(start, stop):
        s = tl.load(keys + chunk * BLOCK_S) + tl.arange(0, BLOCK_S)
        scores = tl.dot(q, rows_of(k, ks, s, S, D, UPCAST).T, input_precision="ieee") * scale
        if HIDE:
            table = masks + tl.load(which + chunk) * (BLOCK_T * BLOCK_S)
            look = tl.load(table + tl.arange(0, BLOCK_T)[:, None] * BLOCK_S + tl.arange(0, BLOCK_S)[None, :])
            scores = tl.where(look != 0, scores, float("-inf"))
        largest = tl.maximum(m, tl_max(scores, 1))  # (BLOCK_T,)
        p = tl.exp2(scores - largest[:, None])  # (BLOCK_T, BLOCK_S)
        rescale = tl.exp2(m - largest)
        values = rows_of(v, vs, s, S, D, UPCAST)  # (BLOCK_S, D)
        y = tl.dot(p.to(values.dtype), values, y * rescale[:, None], input_precision="ieee")
        m, l = largest, l * rescale + tl_sum(p, 1)
    return m, l, y
