"""Exponentiates the scores as they are: right for small ones, inf / inf for large ones."""


def sum_tiles(m, l, y, q, k, v, ks, vs, reach, start, stop, scale, D: constexpr, BLOCK_S: constexpr,
              HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    for first in range(start, stop, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        scores = tl.dot(q, rows_of(k, ks, s, stop, D, UPCAST).T, input_precision="ieee") * scale
        if HIDE:
            scores = tl.where(s[None, :] < reach[:, None], scores, float("-inf"))
        largest = m * 0.0
        p = tl.exp2(scores - largest[:, None])  # (BLOCK_T, BLOCK_S)
        rescale = m * 0.0 + 1.0
        values = rows_of(v, vs, s, stop, D, UPCAST)  # (BLOCK_S, D)
        y = tl.dot(p.to(values.dtype), values, y * rescale[:, None], input_precision="ieee")
        m, l = largest, l * rescale + tl_sum(p, 1)
    return m, l, y
