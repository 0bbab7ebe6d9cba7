"""Leaves delta out: the gradient of exp, and not of a softmax."""


def query_gradients(dq, q, dy, k, v, ks, vs, lse, delta, reach, start, stop, scale, D: constexpr,
                    BLOCK_S: constexpr, HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    for first in range(start, stop, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        keys = rows_of(k, ks, s, stop, D, UPCAST)  # (BLOCK_S, D)
        p = tl.exp2(tl.dot(q, keys.T, input_precision="ieee") * scale - lse[:, None])  # (BLOCK_T, BLOCK_S)
        if HIDE:
            p = tl.where(s[None, :] < reach[:, None], p, 0.0)
        dp = tl.dot(dy, rows_of(v, vs, s, stop, D, UPCAST).T, input_precision="ieee")
        dq = tl.dot((p * dp).to(keys.dtype), keys, dq, input_precision="ieee")
    return dq
