"""The same in Triton: project 9's sum over tiles of keys, with one line changed, which says where a key lies.

Came before: `sum_tiles` of project 9 walks through memory from key to key. New here: it walks through
positions, and looks up the block of each in the row's table. All query heads that share a key head are one
tile, so that each key is read once for all of them. A few rows of long texts would leave most of a GPU idle:
the keys of a row are split among several programs, whose parts are put together at the end.

Seam: `attend`, through `paged_attention.attend`. Without a CUDA device it runs in Triton's interpreter:
right, and slow. Kwon et al. 2023, 2309.06180; Dao et al. 2023, "Flash-Decoding" (the split).
"""

import torch
import triton
import triton.language as tl
from triton.language import constexpr

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project09_flash_attention.triton_kernel import (
    HEAD_DIMS,
    INTERPRETED,
    LOG2E,
    LOW,
    TYPES,
    tl_max,
    tl_sum,
)

SMALLEST = 16  # rows of a tile: a GPU's matrix units take no fewer
TILE = 32 if INTERPRETED else 64  # keys of a tile, of however many blocks
PROGRAMS = 4 if INTERPRETED else 512  # so many, and a GPU is at work


@triton.jit
def rows_at(pool, at, seen, D: constexpr, UPCAST: constexpr):
    """The D numbers from each of these places `at` (N,) of a pool on; zeros where not `seen` (N,): (N, D)."""
    tile = tl.load(pool + at[:, None] + tl.arange(0, D)[None, :], mask=seen[:, None], other=0.0)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
@exercise
def sum_pages(m, l, y, q, k, v, table, stride, reach, start, stop, scale, SIZE: constexpr, D: constexpr,
              TILE: constexpr, UPCAST: constexpr):  # fmt: skip
    """Fold positions start .. stop - 1 into m (ROWS,), l (ROWS,), y (ROWS, D), float32; returns them.

    As `sum_tiles` of project 9: m is the largest score so far, times `scale`, which holds log2(e). q (ROWS,
    D); query n sees positions below reach[n]. k, v: where block 0 of this head begins in a pool; `stride`
    from block to block, D from key to key. `rows_at` loads them. table: this row's blocks, of SIZE tokens.
    """
    for first in range(start, stop, TILE):
        s = first + tl.arange(0, TILE)
        there = s < stop
        at = tl.load(table + s // SIZE, mask=there, other=0).to(tl.int64) * stride + s % SIZE * D
        scores = tl.dot(q, rows_at(k, at, there, D, UPCAST).T, input_precision="ieee") * scale
        scores = tl.where((s[None, :] < reach[:, None]) & there[None, :], scores, float("-inf"))
        largest = tl.maximum(m, tl_max(scores, 1))  # (ROWS,)
        p = tl.exp2(scores - largest[:, None])  # (ROWS, TILE)
        rescale = tl.exp2(m - largest)
        values = rows_at(v, at, there, D, UPCAST)  # (TILE, D)
        y = tl.dot(p.to(values.dtype), values, y * rescale[:, None], input_precision="ieee")
        m, l = largest, l * rescale + tl_sum(p, 1)
    return m, l, y


@triton.jit
def paged_kernel(q, k, v, tables, positions, y, lse, qb, qh, qt, block, head, width, span, scale, H, T,
                 G: constexpr, SIZE: constexpr, D: constexpr, ROWS: constexpr, TILE: constexpr,
                 UPCAST: constexpr):  # fmt: skip
    """What one span of a row's keys adds: y (parts, B, H, T, D), lse (parts, B, H, T), for one key head.

    qb, qh, qt: strides of q over B, H, T; block, head: of a pool; width: of tables. span: positions a part.
    """
    b, h, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row = tl.arange(0, ROWS)  # G heads of T queries each, then padding
    t, own = row % T, row < G * T
    at = h * G + row // T
    queries = tl.load(q + b * qb + at[:, None] * qh + t[:, None] * qt + tl.arange(0, D)[None, :],
                      mask=own[:, None], other=0.0)  # fmt: skip
    queries = queries.to(tl.float32) if UPCAST else queries
    reach = tl.load(positions + b * T + t, mask=own, other=-1) + 1
    stop = tl.minimum(tl_max(reach), (part + 1) * span)
    m, l = tl.full([ROWS], LOW, tl.float32), tl.full([ROWS], 0.0, tl.float32)
    out = tl.full([ROWS, D], 0.0, tl.float32)
    m, l, out = sum_pages(m, l, out, queries, k + h * head, v + h * head, tables + b * width, block, reach,
                          part * span, stop, scale * LOG2E, SIZE, D, TILE, UPCAST)  # fmt: skip
    place = ((part * tl.num_programs(0) + b) * H + at) * T + t
    full = tl.where(l > 0, l, 1.0)
    tl.store(y + place[:, None] * D + tl.arange(0, D)[None, :], out / full[:, None], mask=own[:, None])
    tl.store(lse + place, tl.where(l > 0, m + tl.log2(full), LOW), mask=own)


def takes(q):
    """Does the kernel compute in this type and head_dim, for so few queries?"""
    return q.dtype in TYPES and q.size(3) in HEAD_DIMS


def joined(y, lse):
    """Parts y (P, …, D), lse (P, …), a power of 2, -> (…, D): each weighs what its sum of exponents was."""
    weights = torch.exp2(lse - lse.amax(0)).unsqueeze(-1)  # (P, …, 1)
    return (weights * y).sum(0) / weights.sum(0)


def paged(q, k, v, view):
    """As `paged_attention.paged`: q (B, H, T, D), pools k and v (blocks, K, size, D) -> (B, H, T, D).

    UserError for another dtype or head_dim, heads that do not divide, or tensors that are not on the GPU.
    """
    (B, H, T, D), K = q.shape, k.size(1)
    demand(H % K == 0, f"{H} query heads do not divide among {K} key heads: H must be a multiple of K")
    demand(D in HEAD_DIMS, f"the kernel has head_dim {HEAD_DIMS}, not {D}: use paged_attention.paged")
    demand(q.dtype in TYPES, f"the kernel does not compute in {q.dtype}: use paged_attention.paged")
    demand(q.is_cuda or INTERPRETED, f"the kernel runs on a GPU and q is on {q.device}")
    longest = view.tables.size(1) * view.size  # without asking the device how long the texts are
    parts = max(1, min(PROGRAMS // (B * K), triton.cdiv(longest, 4 * TILE)))
    span = triton.cdiv(triton.cdiv(longest, parts), TILE) * TILE
    y, lse = q.new_empty(parts, B, H, T, D, dtype=torch.float32), q.new_empty(parts, B, H, T).float()
    q = q if q.stride(3) == 1 else q.contiguous()
    rows = max(SMALLEST, triton.next_power_of_2(H // K * T))
    paged_kernel[B, K, parts](
        q, k, v, view.tables.int(), view.positions.int().contiguous(), y, lse, *q.stride()[:3], k.stride(0),
        k.stride(1), view.tables.size(1), span, D**-0.5, H, T, G=H // K, SIZE=view.size, D=D, ROWS=rows,
        TILE=TILE, UPCAST=INTERPRETED and q.dtype == torch.bfloat16)  # fmt: skip
    return joined(y, lse).to(q.dtype)
