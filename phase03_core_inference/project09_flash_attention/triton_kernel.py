"""The same sum in Triton: one program a tile of queries, and all that it sums in the fast memory of one core.

Before: `tiled.py`, where each step over a tile is a call of PyTorch that writes its result to main memory.
New here: scores and probabilities never leave the chip; two kernels go back, one for q, one for k and v, so
that no two programs add to one number. Seam: `attend`. float32, float16, bfloat16; head_dim 16 to 128.

Without a CUDA device the kernels run in Triton's interpreter, on NumPy: right, and slow. NumPy has no
bfloat16: such numbers are made float32 there when they are loaded (UPCAST). Scores are taken times log2(e),
so that exp2 does for exp: a GPU has a unit for it. lse too is a power of two. Dao 2023, arXiv 2307.08691."""

import math

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from triton.language import constexpr

from common.errors import demand
from common.exercise import exercise

from . import tiled

INTERPRETED = not torch.cuda.is_available()
tl_max, tl_min, tl_sum = tl.max, tl.min, tl.sum
if INTERPRETED:  # @triton.jit reads this; it made the three when Triton was imported, and makes them again
    triton.knobs.runtime.interpret = True
    tl_max, tl_min, tl_sum = (triton.jit(function.fn) for function in (tl.max, tl.min, tl.sum))
LOW, LOG2E = constexpr(-1e30), constexpr(math.log2(math.e))
HEAD_DIMS, TYPES = (16, 32, 64, 128), (torch.float32, torch.float16, torch.bfloat16)


def tuned(*sizes):
    """Keep the fastest (BLOCK_T, BLOCK_S, warps, stages) for each D and power of two of T: on a GPU."""
    sizes = [(16, 32, 4, 1)] if INTERPRETED else sizes  # small, unequal, and one: the interpreter cannot try
    configs = [triton.Config({"BLOCK_T": t, "BLOCK_S": s}, num_warps=w, num_stages=n) for t, s, w, n in sizes]
    return triton.autotune(configs, key=["about", "D"])


@triton.jit
def rows_of(x, stride, at, end, D: constexpr, UPCAST: constexpr):
    """Rows `at` (N,) of x (…, D), with zeros from `end` on: (N, D)."""
    tile = tl.load(x + at[:, None] * stride + tl.arange(0, D)[None, :], mask=at[:, None] < end, other=0.0)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def put_rows(x, at, end, tile, D: constexpr):
    """Write a tile (N, D) into rows `at` of x (…, D), but for those from `end` on."""
    place = x + at[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(place, tile.to(x.dtype.element_ty), mask=at[:, None] < end)


@triton.jit
@exercise
def sum_tiles(m, l, y, q, k, v, ks, vs, reach, start, stop, scale, D: constexpr, BLOCK_S: constexpr,
              HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    """Fold keys start .. stop - 1 into m (BLOCK_T,), l (BLOCK_T,), y (BLOCK_T, D), float32; returns them.

    As `tiled.fold`, but m is the largest score times `scale`, which holds log2(e). q (BLOCK_T, D). k, v:
    where this head's begin, ks and vs from row to row: `rows_of` loads a tile. HIDE: not all of these queries
    see all of these keys; query n sees those below reach[n].
    """
    for first in range(start, stop, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        scores = tl.dot(q, rows_of(k, ks, s, stop, D, UPCAST).T, input_precision="ieee") * scale
        if HIDE:
            scores = tl.where(s[None, :] < reach[:, None], scores, float("-inf"))
        largest = tl.maximum(m, tl_max(scores, 1))  # (BLOCK_T,)
        p = tl.exp2(scores - largest[:, None])  # (BLOCK_T, BLOCK_S)
        rescale = tl.exp2(m - largest)
        values = rows_of(v, vs, s, stop, D, UPCAST)  # (BLOCK_S, D)
        y = tl.dot(p.to(values.dtype), values, y * rescale[:, None], input_precision="ieee")
        m, l = largest, l * rescale + tl_sum(p, 1)
    return m, l, y


@tuned((128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3), (64, 64, 4, 3))
@triton.jit
def forward_kernel(q, k, v, reach, y, lse, qb, qh, qt, kb, kh, ks, vb, vh, vs, rb, scale, H, G, T, about,
                   D: constexpr, UPCAST: constexpr, BLOCK_T: constexpr, BLOCK_S: constexpr):
    """y and lse for a tile of queries of one head. qb, qh, qt: strides of q over B, H and T, and so on."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the last queries see most: they begin first
    row = tl.program_id(1).to(tl.int64)  # b * H + h
    b, h, t = row // H, row % H, tile * BLOCK_T + tl.arange(0, BLOCK_T)
    seen = tl.load(reach + b * rb + t, mask=t < T, other=0)
    furthest = tl_max(seen)
    whole = tl_min(tl.where(t < T, seen, furthest)) // BLOCK_S * BLOCK_S  # so far nothing has to be hidden
    queries = rows_of(q + b * qb + h * qh, qt, t, T, D, UPCAST)
    k, v, scale = k + b * kb + h // G * kh, v + b * vb + h // G * vh, scale * LOG2E
    m, l = tl.full([BLOCK_T], LOW, tl.float32), tl.full([BLOCK_T], 0.0, tl.float32)
    out = tl.full([BLOCK_T, D], 0.0, tl.float32)
    m, l, out = sum_tiles(m, l, out, queries, k, v, ks, vs, seen, 0, whole, scale, D, BLOCK_S, False, UPCAST)
    m, l, out = sum_tiles(m, l, out, queries, k, v, ks, vs, seen, whole, furthest, scale, D, BLOCK_S, True,
                          UPCAST)  # fmt: skip
    l = tl.maximum(l, 1.0)
    put_rows(y + row * T * D, t, T, out / l[:, None], D)
    tl.store(lse + row * T + t, m + tl.log2(l), mask=t < T)


@triton.jit
@exercise
def query_gradients(dq, q, dy, k, v, ks, vs, lse, delta, reach, start, stop, scale, D: constexpr,
                    BLOCK_S: constexpr, HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    """Add what keys start .. stop - 1 send back to dq (BLOCK_T, D), not yet times 1/sqrt(D); returns it.

    q, dy (BLOCK_T, D); lse and delta (BLOCK_T,), delta the sum of dy * y; the rest as for `sum_tiles`.
    """
    for first in range(start, stop, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        keys = rows_of(k, ks, s, stop, D, UPCAST)  # (BLOCK_S, D)
        p = tl.exp2(tl.dot(q, keys.T, input_precision="ieee") * scale - lse[:, None])  # (BLOCK_T, BLOCK_S)
        if HIDE:
            p = tl.where(s[None, :] < reach[:, None], p, 0.0)
        dp = tl.dot(dy, rows_of(v, vs, s, stop, D, UPCAST).T, input_precision="ieee")
        dq = tl.dot((p * (dp - delta[:, None])).to(keys.dtype), keys, dq, input_precision="ieee")
    return dq


@tuned((128, 64, 8, 2), (128, 32, 4, 3), (64, 64, 4, 3), (64, 32, 4, 3))
@triton.jit
def back_to_queries(q, k, v, reach, y, lse, dy, delta, dq, qb, qh, qt, kb, kh, ks, vb, vh, vs, rb, scale, H,
                    G, T, about, D: constexpr, UPCAST: constexpr, BLOCK_T: constexpr, BLOCK_S: constexpr):
    """dq for a tile of queries of one head; and delta, the sum of dy * y, for `back_to_keys`."""
    row, tile = tl.program_id(1).to(tl.int64), tl.num_programs(0) - 1 - tl.program_id(0)
    b, h, t = row // H, row % H, tile * BLOCK_T + tl.arange(0, BLOCK_T)
    seen = tl.load(reach + b * rb + t, mask=t < T, other=0)
    furthest = tl_max(seen)
    whole = tl_min(tl.where(t < T, seen, furthest)) // BLOCK_S * BLOCK_S
    queries = rows_of(q + b * qb + h * qh, qt, t, T, D, UPCAST)
    back, out = rows_of(dy + row * T * D, D, t, T, D, UPCAST), rows_of(y + row * T * D, D, t, T, D, UPCAST)
    sums = tl_sum(back.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta + row * T + t, sums, mask=t < T)
    total = tl.load(lse + row * T + t, mask=t < T, other=0.0)
    k, v, log_scale = k + b * kb + h // G * kh, v + b * vb + h // G * vh, scale * LOG2E
    grad = tl.full([BLOCK_T, D], 0.0, tl.float32)
    grad = query_gradients(grad, queries, back, k, v, ks, vs, total, sums, seen, 0, whole, log_scale,
                           D, BLOCK_S, False, UPCAST)  # fmt: skip
    grad = query_gradients(grad, queries, back, k, v, ks, vs, total, sums, seen, whole, furthest, log_scale,
                           D, BLOCK_S, True, UPCAST)  # fmt: skip
    put_rows(dq + row * T * D, t, T, grad * scale, D)


@triton.jit
@exercise
def key_gradients(dk, dv, k, v, s, q, dy, qt, lse, delta, reach, start, stop, T, scale, D: constexpr,
                  BLOCK_T: constexpr, HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    """Add to dk and dv, both (BLOCK_S, D), what queries start .. stop - 1 send back; returns the two.

    k, v (BLOCK_S, D): the tile of keys s (BLOCK_S,). q, dy, lse, delta, reach: where those of this head and
    row begin (q steps by qt from query to query, dy by D); queries from T on do not exist. dk is not yet
    times 1/sqrt(D). HIDE and scale as for `sum_tiles`.
    """
    for first in range(start, stop, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        queries, back = rows_of(q, qt, t, T, D, UPCAST), rows_of(dy, D, t, T, D, UPCAST)  # (BLOCK_T, D)
        total, sums = tl.load(lse + t, mask=t < T, other=0.0), tl.load(delta + t, mask=t < T, other=0.0)
        p = tl.exp2(tl.dot(k, queries.T, input_precision="ieee") * scale - total[None, :])  # (BLOCK_S, …_T)
        if HIDE:
            seen = tl.load(reach + t, mask=t < T, other=0)
            p = tl.where(s[:, None] < seen[None, :], p, 0.0)
        dv = tl.dot(p.to(back.dtype), back, dv, input_precision="ieee")
        dp = tl.dot(v, back.T, input_precision="ieee")
        dk = tl.dot((p * (dp - sums[None, :])).to(queries.dtype), queries, dk, input_precision="ieee")
    return dk, dv


@tuned((64, 128, 8, 2), (32, 128, 4, 3), (64, 64, 4, 3), (32, 64, 4, 3))
@triton.jit
def back_to_keys(q, k, v, reach, first, clear, lse, dy, delta, dk, dv, qb, qh, qt, kb, kh, ks, vb, vh, vs, rb,
                 scale, H, G, T, S, about, D: constexpr, UPCAST: constexpr, BLOCK_T: constexpr,
                 BLOCK_S: constexpr):  # fmt: skip
    """dk and dv for a tile of keys of one key head, from the G query heads that read it; `sight` before."""
    row, start = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK_S
    b, head = row // (H // G), row % (H // G)
    s = start + tl.arange(0, BLOCK_S)
    keys = rows_of(k + b * kb + head * kh, ks, s, S, D, UPCAST)
    values = rows_of(v + b * vb + head * vh, vs, s, S, D, UPCAST)
    begin = tl.load(first + b * S + start) // BLOCK_T * BLOCK_T
    last = tl.load(clear + b * S + tl.minimum(start + BLOCK_S, S) - 1)
    whole = (last + BLOCK_T - 1) // BLOCK_T * BLOCK_T  # from here on nothing has to be hidden
    grad_k, grad_v = tl.full([BLOCK_S, D], 0.0, tl.float32), tl.full([BLOCK_S, D], 0.0, tl.float32)
    for h in range(head * G, head * G + G):
        at, queries, back = b * H + h, q + b * qb + h * qh, dy + (b * H + h) * T * D
        grad_k, grad_v = key_gradients(
            grad_k, grad_v, keys, values, s, queries, back, qt, lse + at * T, delta + at * T, reach + b * rb,
            begin, tl.minimum(whole, T), T, scale * LOG2E, D, BLOCK_T, True, UPCAST)  # fmt: skip
        grad_k, grad_v = key_gradients(
            grad_k, grad_v, keys, values, s, queries, back, qt, lse + at * T, delta + at * T, reach + b * rb,
            whole, T, T, scale * LOG2E, D, BLOCK_T, False, UPCAST)  # fmt: skip
    put_rows(dk + row * S * D, s, S, grad_k * scale, D)
    put_rows(dv + row * S * D, s, S, grad_v, D)


def sight(reach, S):
    """(first, clear), (B, S) int32: the first query that sees key s, and the first from which on all do."""
    ever, always = reach.cummax(-1).values, reach.flip(-1).cummin(-1).values.flip(-1)  # both only grow
    keys = torch.arange(S, device=reach.device, dtype=reach.dtype).repeat(len(reach), 1)
    return [torch.searchsorted(x.contiguous(), keys, right=True, out_int32=True) for x in (ever, always)]


class Flash(torch.autograd.Function):
    """(q, k, v, reach) -> y. q (B, H, T, D), k and v (B, K, S, D); reach (B or 1, T), int32."""

    @staticmethod
    def forward(ctx, q, k, v, reach):
        (B, H, T, D), G, reach = q.shape, q.size(1) // k.size(1), reach.expand(q.size(0), -1)
        y, lse = q.new_empty(q.shape), q.new_empty(B, H, T, dtype=torch.float32)
        strides = *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], reach.stride(0)
        ctx.sizes = {"scale": D**-0.5, "H": H, "G": G, "T": T, "about": triton.next_power_of_2(T), "D": D,
                     "UPCAST": INTERPRETED and q.dtype == torch.bfloat16}  # fmt: skip
        grid = lambda meta: (triton.cdiv(T, meta["BLOCK_T"]), B * H)  # noqa: E731
        forward_kernel[grid](q, k, v, reach, y, lse, *strides, **ctx.sizes)
        ctx.save_for_backward(q, k, v, reach, y, lse)
        ctx.strides, ctx.grid = strides, grid
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        q, k, v, reach, y, lse = ctx.saved_tensors
        (B, K, S, _), dy, delta = k.shape, dy.contiguous(), torch.empty_like(lse)
        dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
        back_to_queries[ctx.grid](q, k, v, reach, y, lse, dy, delta, dq, *ctx.strides, **ctx.sizes)
        back_to_keys[lambda meta: (triton.cdiv(S, meta["BLOCK_S"]), B * K)](
            q, k, v, reach, *sight(reach, S), lse, dy, delta, dk, dv, *ctx.strides, S=S, **ctx.sizes)
        return dq, dk, dv, None


def flash(q, k, v, reach):
    """As `tiled.flash`: q (B, H, T, D), k and v (B, K, S, D), reach (B or 1, T) -> (B, H, T, D).

    UserError for another dtype or head_dim, heads that do not divide, or tensors that are not on the GPU.
    """
    H, D, K = q.size(1), q.size(3), k.size(1)
    demand(H % K == 0, f"{H} query heads do not divide among {K} key heads: H must be a multiple of K")
    demand(D in HEAD_DIMS, f"the kernel has head_dim {HEAD_DIMS}, not {D}: use tiled.attend, which takes any")
    demand(q.dtype in TYPES, f"the kernel does not compute in {q.dtype}: use tiled.attend")
    demand(q.is_cuda or INTERPRETED, f"the kernel runs on a GPU and q is on {q.device}: use tiled.attend")
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return Flash.apply(q, k, v, reach.to(torch.int32))


def attend(q, k, v, *, positions, cache=None, mask=None):
    """For the seam. A mask written out is the matrix that the kernel is to avoid: those go to tiled.py."""
    if cache is not None:
        k, v = cache.update(k, v, positions)  # (B, K, S, D)
    if mask is not None:
        return tiled.flash(q, k, v, None, mask)
    return flash(q, k, v, tiled.reach_of(positions, cache))
