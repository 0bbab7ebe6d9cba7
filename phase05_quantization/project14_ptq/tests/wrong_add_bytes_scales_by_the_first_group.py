"""Takes the steps of the first group for all of a row."""


def add_bytes(acc, x, packed, scale, zero, m, n, start, stop, M, N, BYTES, GROUP: constexpr, GROUPS,
              HAS_ZERO: constexpr, BLOCK_K: constexpr, UPCAST: constexpr):  # fmt: skip
    for first in range(start, stop, BLOCK_K):
        k, group = first + tl.arange(0, BLOCK_K), 0
        codes = tl.load(packed + n[:, None] * BYTES + k[None, :], mask=n[:, None] < N, other=0).to(tl.int32)
        low, high = (codes & 15) - ZERO, (codes >> 4) - ZERO  # (BLOCK_N, BLOCK_K)
        if HAS_ZERO:
            middle = tl.load(zero + n * GROUPS + group, mask=n < N, other=0).to(tl.int32)
            low, high = low - middle[:, None], high - middle[:, None]
        at = x + m[:, None] * BYTES + k[None, :]
        even = tl.load(at, mask=m[:, None] < M, other=0.0)  # (BLOCK_M, BLOCK_K)
        odd = tl.load(at + M * BYTES, mask=m[:, None] < M, other=0.0)
        if UPCAST:
            even, odd = even.to(tl.float32), odd.to(tl.float32)
        part = tl.dot(even, low.to(even.dtype).T, input_precision="ieee")
        part = tl.dot(odd, high.to(odd.dtype).T, part, input_precision="ieee")
        steps = tl.load(scale + n * GROUPS + group, mask=n < N, other=0.0).to(tl.float32)  # (BLOCK_N,)
        acc += part * steps[None, :]
    return acc
