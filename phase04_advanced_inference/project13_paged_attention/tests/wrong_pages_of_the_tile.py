"""One block a tile: the table is asked for the tile's first position alone."""


def sum_pages(m, l, y, q, k, v, table, stride, reach, start, stop, scale, SIZE: constexpr, D: constexpr,
              TILE: constexpr, UPCAST: constexpr):  # fmt: skip
    for first in range(start, stop, TILE):
        s = first + tl.arange(0, TILE)
        there = s < stop
        at = tl.load(table + first // SIZE).to(tl.int64) * stride + s % SIZE * D
        scores = tl.dot(q, rows_at(k, at, there, D, UPCAST).T, input_precision="ieee") * scale
        scores = tl.where((s[None, :] < reach[:, None]) & there[None, :], scores, float("-inf"))
        largest = tl.maximum(m, tl_max(scores, 1))
        p = tl.exp2(scores - largest[:, None])
        rescale = tl.exp2(m - largest)
        values = rows_at(v, at, there, D, UPCAST)
        y = tl.dot(p.to(values.dtype), values, y * rescale[:, None], input_precision="ieee")
        m, l = largest, l * rescale + tl_sum(p, 1)
    return m, l, y
