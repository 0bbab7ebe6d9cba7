"""The same split in Triton: a program for each share of one row's keys, and a second kernel that merges.

Came before: project 9's forward kernel has a program for each tile of queries of each head, and while one row
is decoded that is a few programs on a GPU with room for hundreds. New here: every program gets a share of the
keys as well. `sum_tiles`, what a program does with its share, is project 9's, unchanged: only where it starts
and stops, and what is kept of its result, differ. What the programs leave in memory, (D + 1) numbers a row
and share, is read once more and merged.

The query heads of a group are rows of one tile: each key is read once for all of them. Nothing asks the GPU a
question on the way, so that a CUDA graph can hold it; shares beyond a row's last key return at once.

Seam: `attend`. float32, float16, bfloat16; head_dim 16 to 128. Without a CUDA device it runs in Triton's
interpreter: right, and slow. Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding"."""

import torch
import triton
import triton.language as tl
from triton.language import constexpr

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project09_flash_attention.tiled import reach_of
from phase03_core_inference.project09_flash_attention.triton_kernel import (
    HEAD_DIMS,
    INTERPRETED,
    LOG2E,
    LOW,
    TYPES,
    flash,
    sum_tiles,
    tl_max,
    tl_min,
    tl_sum,
)

from . import chunked, split_k

SMALLEST = 16  # rows of a tile: a GPU's matrix units take no fewer
TILE = 16 if INTERPRETED else 64  # keys of a tile; a share is a whole number of them
LEAST = 4  # tiles below which a share is not worth a program
WAVES = 4  # programs that fit on one core of a GPU at once


@triton.jit
def share_kernel(q, k, v, reach, ys, lses, qb, qh, qt, kb, kh, ks, vb, vh, vs, rb, scale, K, T, share,
                 G: constexpr, D: constexpr, ROWS: constexpr, BLOCK_S: constexpr, UPCAST: constexpr):
    """ys (N, B * K, G * T, D) and lses (N, B * K, G * T), a power of 2: attention to `share` keys of one row.

    qb, qh, qt: strides of q over B, H and T, and so on. Row n is query n % T of the group's head n // T.
    """
    row, number = tl.program_id(0).to(tl.int64), tl.program_id(1)  # b * K + h; which share
    b, h, n = row // K, row % K, tl.arange(0, ROWS)
    own = n < G * T
    seen = tl.load(reach + b * rb + n % T, mask=own, other=0)
    start, furthest = number * share, tl_max(seen)
    stop = tl.minimum(start + share, furthest)
    nearest = tl_min(tl.where(own, seen, furthest))
    whole = tl.minimum(stop, nearest) // BLOCK_S * BLOCK_S  # so far nothing has to be hidden
    whole = tl.maximum(start, whole)
    place = q + b * qb + (h * G + n[:, None] // T) * qh + n[:, None] % T * qt + tl.arange(0, D)[None, :]
    queries = tl.load(place, mask=own[:, None], other=0.0)
    queries = queries.to(tl.float32) if UPCAST else queries
    k, v, scale = k + b * kb + h * kh, v + b * vb + h * vh, scale * LOG2E
    m, l = tl.full([ROWS], LOW, tl.float32), tl.full([ROWS], 0.0, tl.float32)
    y = tl.full([ROWS, D], 0.0, tl.float32)
    m, l, y = sum_tiles(m, l, y, queries, k, v, ks, vs, seen, start, whole, scale, D, BLOCK_S, False, UPCAST)
    m, l, y = sum_tiles(m, l, y, queries, k, v, ks, vs, seen, whole, stop, scale, D, BLOCK_S, True, UPCAST)
    l = tl.maximum(l, 1.0)
    at = (number * tl.num_programs(0) + row) * G * T + n
    tl.store(ys + at[:, None] * D + tl.arange(0, D)[None, :], y / l[:, None], mask=own[:, None])
    tl.store(lses + at, m + tl.log2(l), mask=own)


@triton.jit
@exercise
def merged(ys, lses):
    """`parts.merge` for one row: ys (SHARES, D) and lses (SHARES,), powers of 2, -> (D,), float32.

    Shares that do not exist have lse LOW and y 0. `tl_max(x, 0)` and `tl_sum(x, 0)` go along the shares.
    """
    weights = tl.exp2(lses - tl_max(lses, 0))  # (SHARES,)
    return tl_sum(weights[:, None] * ys, 0) / tl_sum(weights, 0)


@triton.jit
def merge_kernel(ys, lses, y, rows, N, D: constexpr, SHARES: constexpr):
    """y (rows, D), the answer, from ys (N, rows, D) and lses (N, rows), in which a row's shares are `rows`
    apart.
    """
    row, n = tl.program_id(0).to(tl.int64), tl.arange(0, SHARES)
    at, d = n.to(tl.int64) * rows + row, tl.arange(0, D)
    parts = tl.load(ys + at[:, None] * D + d[None, :], mask=n[:, None] < N, other=0.0)
    weights = tl.load(lses + at, mask=n < N, other=LOW)
    tl.store(y + row * D + d, merged(parts, weights).to(y.dtype.element_ty))


def programs(device):
    """How many programs this device has at work at one time."""
    if device.type == "cuda":  # pragma: no cover - gpu
        return WAVES * torch.cuda.get_device_properties(device).multi_processor_count
    return 4


def split(q, k, v, reach, *, splits=None):
    """As `split_k.split`, without a mask: q (B, H, T, D), k and v (B, K, S, D), reach (B or 1, T) -> as q.

    splits None: `split_k.how_many`, of S, as the furthest reach is known to the GPU alone. UserError for
    another dtype or head_dim, heads that do not divide, no split, or tensors that are not on the GPU.
    """
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    demand(H % K == 0, f"{H} query heads do not divide among {K} key heads: H must be a multiple of K")
    demand(D in HEAD_DIMS, f"the kernel has head_dim {HEAD_DIMS}, not {D}: use split_k.attend")
    demand(q.dtype in TYPES, f"the kernel does not compute in {q.dtype}: use split_k.attend")
    demand(q.is_cuda or INTERPRETED, f"the kernel runs on a GPU and q is on {q.device}: use split_k.attend")
    demand(splits is None or splits >= 1, f"the keys cannot be cut into {splits} shares: take at least 1")
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    tiles, reach = triton.cdiv(S, TILE), reach.to(torch.int32).expand(B, -1)
    splits = splits or split_k.how_many(B * K, tiles // LEAST, programs(q.device))
    share = max(1, triton.cdiv(tiles, splits)) * TILE
    splits, rows = max(1, triton.cdiv(S, share)), B * H * T
    y, exact = q.new_empty(B, H, T, D), {"dtype": torch.float32}
    ys, lses = q.new_empty(splits, rows, D, **exact), q.new_empty(splits, rows, **exact)
    strides = *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], reach.stride(0)
    share_kernel[B * K, splits](
        q, k, v, reach, ys, lses, *strides, D**-0.5, K, T, share, G=H // K, D=D, BLOCK_S=TILE,
        ROWS=max(SMALLEST, triton.next_power_of_2(H // K * T)),
        UPCAST=INTERPRETED and q.dtype == torch.bfloat16)  # fmt: skip
    merge_kernel[(rows,)](ys, lses, y, rows, splits, D=D, SHARES=triton.next_power_of_2(splits))
    return y


def attend(q, k, v, *, positions, cache=None, mask=None, splits=None):
    """For the seam. A mask written out goes to `chunked.py`; the rest, but for few queries, to project 9's
    kernel.
    """
    if cache is not None:
        k, v = cache.update(k, v, positions)  # (B, K, S, D)
    reach = reach_of(positions, cache)
    if mask is not None:
        return chunked.chunked(q, k, v, reach, mask)
    return split(q, k, v, reach, splits=splits) if split_k.suits(q, k, v) else flash(q, k, v, reach)
