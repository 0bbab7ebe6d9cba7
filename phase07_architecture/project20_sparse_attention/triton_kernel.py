"""The same in Triton: one program a tile of queries, past which the keys come that its list names.

Before: `block_sparse.py`, where a piece is five calls of PyTorch, and its result goes through main memory;
and project 9's kernel, which walks over all keys. New here: a list of keys in place of a range, made once for
a pattern and a length (`layout`) and used by every layer and every step. Keys that the whole tile sees come
first and need no mask; of the masks for the others only different ones are kept, and those are few: a window
looks the same from everywhere. Forward only: where gradients are asked for, `block_sparse.py` does it.

Without a CUDA device the kernel runs in Triton's interpreter, as project 9's does. Seam: `attend`."""

from functools import lru_cache
from typing import NamedTuple

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
    put_rows,
    rows_of,
    tl_max,
    tl_sum,
)

from . import block_sparse

BLOCK_T, BLOCK_S = (16, 16) if INTERPRETED else (128, 64)


class Layout(NamedTuple):
    """What the kernel reads beside q, k and v. A chunk is BLOCK_S keys of one tile of BLOCK_T queries."""

    keys: torch.Tensor  # (chunks * BLOCK_S,) int32, slots; past the end where a chunk is not full
    which: torch.Tensor  # (chunks,) int32: the number of its mask
    starts: torch.Tensor  # (tiles + 1,) int32: tile i has the chunks starts[i] .. starts[i + 1] - 1,
    middles: torch.Tensor  # (tiles,) int32: of which those before middles[i] need no mask
    masks: torch.Tensor  # (masks, BLOCK_T, BLOCK_S) int8, all different


@lru_cache(maxsize=64)
def layout(pattern, first, T, device="cpu", tile=BLOCK_T, chunk=BLOCK_S):
    """The Layout of a pattern for queries at positions first .. first + T - 1; slot s holds position s."""
    keys, which, starts, middles, masks = [], [], [0], [], {}
    for begin in range(first, first + T, tile):
        t = range(begin, min(begin + tile, first + T))
        near = pattern.keys(t)
        look = pattern.look(torch.arange(t[0], t[-1] + 1, dtype=torch.int32)[:, None], near)
        whole = look.all(0)  # (M,): these the whole tile sees
        order = torch.cat((near[whole], near[~whole]))
        look = torch.cat((look[:, whole], look[:, ~whole]), 1)
        free, chunks = int(whole.sum()) // chunk, -(-len(near) // chunk)
        padded = torch.zeros(tile, chunks * chunk, dtype=torch.int8)
        padded[: len(t), : len(near)] = look
        keys.append(torch.nn.functional.pad(order, (0, chunks * chunk - len(near)), value=first + T))
        for number, part in enumerate(padded.split(chunk, 1)):
            part = part.contiguous()
            new = len(masks), part
            which.append(0 if number < free else masks.setdefault(part.numpy().tobytes(), new)[0])
        middles.append(starts[-1] + free)
        starts.append(starts[-1] + chunks)
    tables = torch.stack([part for _, part in masks.values()] or [torch.zeros(tile, chunk, dtype=torch.int8)])
    whole_numbers = (torch.tensor(x, dtype=torch.int32) for x in (which, starts, middles))
    return Layout(*(x.to(device) for x in (torch.cat(keys), *whole_numbers, tables)))


@triton.jit
@exercise
def sum_chunks(m, l, y, q, k, v, ks, vs, keys, which, masks, start, stop, S, scale, D: constexpr,
               BLOCK_T: constexpr, BLOCK_S: constexpr, HIDE: constexpr, UPCAST: constexpr):  # fmt: skip
    """Fold chunks start .. stop - 1 into m (BLOCK_T,), l (BLOCK_T,), y (BLOCK_T, D), float32; returns them.

    As project 9's `sum_tiles`, but the keys are named. q (BLOCK_T, D); m and `scale` hold log2(e). k, v:
    where this head's begin, ks and vs from row to row; `rows_of(k, ks, s, S, D, UPCAST)` loads the rows s
    (BLOCK_S,), zeros from S on. keys, which, masks: see Layout. HIDE: a query sees a key where the mask of
    the chunk is not 0.
    """
    for chunk in range(start, stop):
        s = tl.load(keys + chunk * BLOCK_S + tl.arange(0, BLOCK_S))
        scores = tl.dot(q, rows_of(k, ks, s, S, D, UPCAST).T, input_precision="ieee") * scale
        if HIDE:
            table = masks + tl.load(which + chunk) * (BLOCK_T * BLOCK_S)
            look = tl.load(table + tl.arange(0, BLOCK_T)[:, None] * BLOCK_S + tl.arange(0, BLOCK_S)[None, :])
            scores = tl.where(look != 0, scores, float("-inf"))
        largest = tl.maximum(m, tl_max(scores, 1))  # (BLOCK_T,)
        p = tl.exp2(scores - largest[:, None])  # (BLOCK_T, BLOCK_S)
        rescale = tl.exp2(m - largest)
        values = rows_of(v, vs, s, S, D, UPCAST)  # (BLOCK_S, D)
        y = tl.dot(p.to(values.dtype), values, y * rescale[:, None], input_precision="ieee")
        m, l = largest, l * rescale + tl_sum(p, 1)
    return m, l, y


@triton.jit
def forward_kernel(q, k, v, y, keys, which, starts, middles, masks, qb, qh, qt, kb, kh, ks, vb, vh, vs, scale,
                   H, G, T, S, D: constexpr, UPCAST: constexpr, BLOCK_T: constexpr, BLOCK_S: constexpr):
    """y for a tile of queries of one head. qb, qh, qt: strides of q over B, H and T, and so on."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)  # b * H + h
    b, h, t = row // H, row % H, tile * BLOCK_T + tl.arange(0, BLOCK_T)
    queries = rows_of(q + b * qb + h * qh, qt, t, T, D, UPCAST)
    k, v, scale = k + b * kb + h // G * kh, v + b * vb + h // G * vh, scale * LOG2E
    m, l = tl.full([BLOCK_T], LOW, tl.float32), tl.full([BLOCK_T], 0.0, tl.float32)
    out = tl.full([BLOCK_T, D], 0.0, tl.float32)
    start, middle, stop = tl.load(starts + tile), tl.load(middles + tile), tl.load(starts + tile + 1)
    m, l, out = sum_chunks(m, l, out, queries, k, v, ks, vs, keys, which, masks, start, middle, S, scale, D,
                           BLOCK_T, BLOCK_S, False, UPCAST)  # fmt: skip
    m, l, out = sum_chunks(m, l, out, queries, k, v, ks, vs, keys, which, masks, middle, stop, S, scale, D,
                           BLOCK_T, BLOCK_S, True, UPCAST)  # fmt: skip
    put_rows(y + row * T * D, t, T, out / tl.maximum(l, 1.0)[:, None], D)


def attention(q, k, v, pattern, first=0):
    """Queries at positions first .. first + T - 1; q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D).

    UserError for another dtype or head_dim, heads that do not divide, too few keys, or tensors that are not
    on the GPU.
    """
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    demand(H % K == 0, f"{H} query heads do not divide among {K} key heads: H must be a multiple of K")
    demand(D in HEAD_DIMS, f"the kernel has head_dim {HEAD_DIMS}, not {D}: use block_sparse.sparse")
    demand(q.dtype in TYPES, f"the kernel does not compute in {q.dtype}: use block_sparse.sparse")
    demand(q.is_cuda or INTERPRETED, f"the kernel needs a GPU, not {q.device}: use block_sparse")
    demand(first + T <= S, f"queries up to position {first + T - 1} and {S} keys: there is a slot for each")
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    y, plan = q.new_empty(q.shape), layout(pattern, first, T, str(q.device))
    strides = *q.stride()[:3], *k.stride()[:3], *v.stride()[:3]
    forward_kernel[(triton.cdiv(T, BLOCK_T), B * H)](
        q, k, v, y, plan.keys, plan.which, plan.starts, plan.middles, plan.masks, *strides, D**-0.5, H,
        H // K, T, min(S, first + T), D=D, UPCAST=INTERPRETED and q.dtype == torch.bfloat16, BLOCK_T=BLOCK_T,
        BLOCK_S=BLOCK_S, num_warps=4 if D < 128 else 8)  # fmt: skip
    return y


def sparse(pattern):
    """An attend for the seam: the kernel where rows of several tokens stand at one place and nothing is to
    flow back, and `block_sparse.sparse` for the rest: masks, ragged rows, single tokens, training."""
    other = block_sparse.sparse(pattern)

    def attend(q, k, v, *, positions, cache=None, mask=None):
        trained = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        if mask is not None or trained or positions.dim() == 2 or q.size(2) < 2:
            return other(q, k, v, positions=positions, cache=cache, mask=mask)
        first = int(positions[0])
        if (cache is None and first) or bool((positions.diff() != 1).any()):
            return other(q, k, v, positions=positions, cache=cache)
        if cache is not None:
            k, v = cache.update(k, v, positions)  # (B, K, S, D)
        return attention(q, k, v, pattern, first)

    return attend
