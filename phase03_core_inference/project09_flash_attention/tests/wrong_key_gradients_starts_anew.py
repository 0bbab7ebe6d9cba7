"""Throws away what the first tiles of queries, or the first head of the group, had sent."""


def key_gradients(dk, dv, k, v, s, q, dy, qt, lse, delta, reach, start, stop, T, scale, D: constexpr,
                  BLOCK_T: constexpr, HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    for first in range(start, stop, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        queries, back = rows_of(q, qt, t, T, D, UPCAST), rows_of(dy, D, t, T, D, UPCAST)  # (BLOCK_T, D)
        total, sums = tl.load(lse + t, mask=t < T, other=0.0), tl.load(delta + t, mask=t < T, other=0.0)
        p = tl.exp2(tl.dot(k, queries.T, input_precision="ieee") * scale - total[None, :])  # (BLOCK_S, …_T)
        if HIDE:
            seen = tl.load(reach + t, mask=t < T, other=0)
            p = tl.where(s[:, None] < seen[None, :], p, 0.0)
        dv = tl.dot(p.to(back.dtype), back, dv * 0.0, input_precision="ieee")
        dp = tl.dot(v, back.T, input_precision="ieee")
        dk = tl.dot((p * (dp - sums[None, :])).to(queries.dtype), queries, dk, input_precision="ieee")
    return dk, dv
