"""Compares places inside the tile with the reach: from the second tile on all is seen."""


def sum_tiles(m, l, y, q, k, v, ks, vs, reach, start, stop, scale, D: constexpr, BLOCK_S: constexpr,
              HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    for first in range(start, stop, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        scores = tl.dot(q, rows_of(k, ks, s, stop, D, UPCAST).T, input_precision="ieee") * scale
        if HIDE:
            scores = tl.where((s - first)[None, :] < reach[:, None], scores, float("-inf"))
        largest = tl.maximum(m, tl_max(scores, 1))  # (BLOCK_T,)
        p = tl.exp2(scores - largest[:, None])  # (BLOCK_T, BLOCK_S)
        rescale = tl.exp2(m - largest)
        values = rows_of(v, vs, s, stop, D, UPCAST)  # (BLOCK_S, D)
        y = tl.dot(p.to(values.dtype), values, y * rescale[:, None], input_precision="ieee")
        m, l = largest, l * rescale + tl_sum(p, 1)
    return m, l, y
