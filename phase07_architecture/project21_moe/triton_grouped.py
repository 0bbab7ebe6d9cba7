"""The grouped product in Triton: one program for a tile of rows of one expert, found without asking anybody.

Before: `grouped.py`. New here: the kernel. How many tiles an expert has depends on its count, which only the
GPU knows. So as many programs are started as there could be, R / BLOCK + E; a small table, made on the GPU,
says which expert each belongs to and where its rows begin, and those that are left over end at once.

    counts     5      0   9          with BLOCK = 4
    tiles      2      0   3          their sum, 5, is at most 14 / 4 + 3 = 6
    owner      0 0    2 2 2    3     3: of nobody
    row        0 4    5 9 13

Back: to the rows by the same kernel with the matrices turned round; to the matrices by a second one, a
program for a tile of one expert's matrix, which sums over that expert's rows. Without a GPU both run in
Triton's interpreter, slowly. Gale et al. 2022, 2211.15841; Tan et al. 2024, 2403.08245 (ScatterMoE).
"""

import torch
import triton
import triton.language as tl
from triton.language import constexpr

from common.errors import demand
from common.exercise import exercise

INTERPRETED = not torch.cuda.is_available()
if INTERPRETED:
    triton.knobs.runtime.interpret = True  # @triton.jit reads this
ROWS, COLUMNS, DEPTH = (16, 16, 16) if INTERPRETED else (128, 128, 64)  # of a tile, and of a step of its sum
TYPES = (torch.float32, torch.float16, torch.bfloat16)


@exercise
def tiles(ends, R, block):
    """ends (E,) int64: where each expert's rows end -> (owner, first), (ceil(R / block) + E,) int32 each.

    Tile t holds the rows from first[t] on of expert owner[t], at most `block`. The tiles of an expert follow
    each other, as many as it needs; an expert without rows has none. Tiles left over: owner E, first is R.
    """
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    needed = (ends - starts + block - 1) // block  # (E,)
    until = needed.cumsum(0)
    t = torch.arange(triton.cdiv(R, block) + len(ends), device=ends.device)
    owner = torch.searchsorted(until, t, right=True)  # (tiles,)
    mine = owner.clamp(max=len(ends) - 1)
    first = starts[mine] + (t - until[mine] + needed[mine]) * block
    return owner.to(torch.int32), torch.where(owner < len(ends), first, R).to(torch.int32)


@triton.jit
def rows_kernel(h, w, y, owner, first, ends, E, N, K, hr, we, wn, wk, UPCAST: constexpr, ROWS: constexpr,
                COLUMNS: constexpr, DEPTH: constexpr):  # fmt: skip
    """y (R, N), a tile of it: rows of h (R, K) times the matrix (N, K) of their expert, turned."""
    e = tl.load(owner + tl.program_id(0))
    if e < E:
        r = tl.load(first + tl.program_id(0)) + tl.arange(0, ROWS)
        n, end = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), tl.load(ends + e)
        w += e.to(tl.int64) * we
        total = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
        for start in range(0, K, DEPTH):
            k = start + tl.arange(0, DEPTH)
            a = tl.load(h + r[:, None].to(tl.int64) * hr + k[None, :],
                        mask=(r < end)[:, None] & (k < K)[None, :], other=0.0)  # fmt: skip
            b = tl.load(w + n[None, :] * wn + k[:, None] * wk,
                        mask=(n < N)[None, :] & (k < K)[:, None], other=0.0)  # fmt: skip
            if UPCAST:
                a, b = a.to(tl.float32), b.to(tl.float32)
            total = tl.dot(a, b, total, input_precision="ieee")
        place = y + r[:, None].to(tl.int64) * N + n[None, :]
        tl.store(place, total.to(y.dtype.element_ty), mask=(r < end)[:, None] & (n < N)[None, :])


@triton.jit
def matrix_kernel(h, dy, dw, ends, N, K, hr, dr, UPCAST: constexpr, ROWS: constexpr, COLUMNS: constexpr,
                  DEPTH: constexpr):  # fmt: skip
    """dw (E, N, K), a tile of one expert's: the sum over its rows r of dy[r, n] · h[r, k]."""
    e = tl.program_id(2)
    n, k = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, end = tl.load(ends + e - 1, mask=e > 0, other=0), tl.load(ends + e)
    total = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    for row in range(start, end, DEPTH):
        r = (row + tl.arange(0, DEPTH)).to(tl.int64)
        a = tl.load(dy + r[None, :] * dr + n[:, None], mask=(r < end)[None, :] & (n < N)[:, None], other=0.0)
        b = tl.load(h + r[:, None] * hr + k[None, :], mask=(r < end)[:, None] & (k < K)[None, :], other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="ieee")
    place = dw + e.to(tl.int64) * N * K + n[:, None].to(tl.int64) * K + k[None, :]
    tl.store(place, total.to(dw.dtype.element_ty), mask=(n < N)[:, None] & (k < K)[None, :])


def multiply(h, w, ends):
    """h (R, K), w (E, N, K) of any strides, ends (E,) int64 -> (R, N): row by row, its expert's matrix."""
    (R, K), (E, N, _) = h.shape, w.shape
    y = h.new_zeros(R, N)
    owner, first = tiles(ends, R, ROWS)
    upcast = INTERPRETED and h.dtype == torch.bfloat16  # NumPy has none
    rows_kernel[len(owner), triton.cdiv(N, COLUMNS)](
        h, w, y, owner, first, ends, E, N, K, h.stride(0), *w.stride(), upcast, ROWS, COLUMNS, DEPTH)
    return y


class Grouped(torch.autograd.Function):
    """(h, w, ends) -> (R, N)."""

    @staticmethod
    def forward(ctx, h, w, ends):
        ctx.save_for_backward(h, w, ends)
        return multiply(h, w, ends)

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy (R, N) -> the gradients of h (R, K) and w (E, N, K), and None for ends.

        dh: `multiply` with each matrix turned. dw: `matrix_gradients(h, dy, ends)`.
        """
        h, w, ends = ctx.saved_tensors
        dy = dy.contiguous()
        return multiply(dy, w.transpose(1, 2), ends), matrix_gradients(h, dy, ends), None


def matrix_gradients(h, dy, ends):
    """h (R, K), dy (R, N), ends (E,) -> (E, N, K): each expert's sum of dy_r h_rᵀ over its rows."""
    (K, N), E = (h.size(1), dy.size(1)), len(ends)
    dw = h.new_empty(E, N, K)
    upcast = INTERPRETED and h.dtype == torch.bfloat16
    grid = triton.cdiv(N, ROWS), triton.cdiv(K, COLUMNS), E
    matrix_kernel[grid](h, dy, dw, ends, N, K, h.stride(0), dy.stride(0), upcast, ROWS, COLUMNS, DEPTH)
    return dw


def product(h, w, ends):
    """As `grouped.by_slices`. float32, float16 or bfloat16; UserError for others, or off the GPU."""
    demand(h.dtype in TYPES and h.dtype == w.dtype, "the kernel multiplies float32, float16 or bfloat16, "
           f"both alike, not {h.dtype} by {w.dtype}: use grouped.by_slices")  # fmt: skip
    demand(h.is_cuda or INTERPRETED, f"the kernel runs on a GPU, not on {h.device}: use grouped.by_slices")
    return Grouped.apply(h.contiguous(), w, ends.to(torch.int64))
