"""Attention that computes what a pattern asks for and nothing else, exact, forward and backward.

Before: project 9 sums a softmax tile by tile, over all keys that came before. New here: a tile's keys are a
list. Queries that look at the same keys are put together; their keys are gathered into one small dense
matrix; `fold`, which takes keys in any number of parts and any order, does the rest. Seam: `attend`.

    piece    (rows (N,), keys (M,), look (N, M)): which queries, which keys, and who of them sees whom. Every
             pair of the pattern is True in exactly one piece.

With a cache nothing is different: a query at position p needs the same keys, and slot s holds position s.
Child et al. 2019, arXiv 1904.10509; the softmax in parts: project 9, and the papers there."""

import math

import torch
from torch.autograd.function import once_differentiable

from common.errors import demand
from common.exercise import exercise
from common.model import distance
from phase03_core_inference.project09_flash_attention.tiled import (
    LOW,
    finish,
    fold,
    materialised,
    tile_gradients,
)

TILE = 128  # queries of a piece
CHUNK = 1024  # keys of a piece: what is longer comes in several


def masked(q, k, v, pattern, positions):
    """The text and oracle: all pairs, -inf where the pattern has none. positions (T,); slot = position."""
    keys = torch.arange(k.size(2), device=q.device)
    return materialised(q, k, v, pattern.look(positions[:, None], keys))


@exercise
def pieces(pattern, positions, tile=TILE, chunk=CHUNK):
    """The work, piece by piece: yields (rows (N,), keys (M,), look (N, M)), 1 <= N <= tile, 1 <= M <= chunk.

    positions (T,): where the queries stand, ascending. rows: indices into positions; keys: positions. The
    groups of the pattern come one after another. In a group of step d the rows of a piece are a multiple of
    d apart, and its keys are those that some of them sees. look: who sees whom, by a part of this group and
    by none of a group before.
    """
    for step, group, before in pattern.groups():
        order = (positions % step).argsort(stable=True)  # queries that are a multiple of step apart, together
        alike = order.split((positions % step).bincount().tolist())
        for rows in (rows for part in alike if len(part) for rows in part.split(tile)):
            t = positions[rows][:, None]
            near = group.keys(range(int(t[0]), int(t[-1]) + 1, step))
            for keys in near.split(chunk) if len(near) else ():
                look = group.look(t, keys)
                yield rows, keys, look & ~before.rule(t, keys) if before.parts else look


class Sparse(torch.autograd.Function):
    """(q, k, v, work) -> y. q (B, K, G, T, D), scaled, k and v (B, K, S, D), float32 or float64.

    work() begins the walk over the pieces, once for the way there and once for the way back; keys are slots.
    Kept in between: q, k, v, y and one number a row.
    """

    @staticmethod
    def forward(ctx, q, k, v, work):
        none = q.new_zeros(*q.shape[:-1], 1)
        state = none + LOW, none, torch.zeros_like(q)
        for rows, keys, look in work():
            tile, *before = (x[..., rows, :].flatten(2, 3) for x in (q, *state))  # (B, K, G * N, …)
            after = fold(before, scores(tile, k[:, :, keys], look), v[:, :, keys])
            for whole, part in zip(state, after, strict=True):
                whole[..., rows, :] = part.unflatten(2, (q.size(2), -1))
        y, lse = finish(state)
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.work = work
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        q, k, v, y, lse = ctx.saved_tensors
        dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
        delta = (dy * y).sum(-1, keepdim=True)  # (B, K, G, T, 1)
        for rows, keys, look in ctx.work():
            tile, *row = (x[..., rows, :].flatten(2, 3) for x in (q, lse, dy, delta))
            near, values = k[:, :, keys], v[:, :, keys]
            parts = tile_gradients(tile, near, values, scores(tile, near, look), *row)
            dq[..., rows, :] += parts[0].unflatten(2, (q.size(2), -1))
            dk.index_add_(2, keys, parts[1])
            dv.index_add_(2, keys, parts[2])
        return dq, dk, dv, None


@exercise
def scores(tile, keys, look):
    """q kᵀ of one piece, -inf where hidden: (B, K, G * N, M).

    tile (B, K, G * N, D): the N queries of each of G heads, one head after another. keys (B, K, M, D). look
    (N, M), the same for all heads.
    """
    found = tile @ keys.mT
    if not look.all():
        found.unflatten(2, (-1, len(look))).masked_fill_(~look, -math.inf)  # the same memory
    return found


def attention(q, k, v, work):
    """Exact attention over the pieces of work(). q (B, H, T, D), k and v (B, K, S, D) -> as q, in its dtype.

    16-bit input is computed in float32. A query that sees nothing gets 0. UserError where H is no multiple of
    K.
    """
    H, K = q.size(1), k.size(1)
    demand(H % K == 0, f"{H} query heads do not divide among {K} key heads: H must be a multiple of K")
    exact = torch.promote_types(q.dtype, torch.float32)
    rows = (q.to(exact) / math.sqrt(q.size(-1))).unflatten(1, (K, H // K))  # (B, K, G, T, D)
    with torch.autocast(q.device.type, enabled=False):
        return Sparse.apply(rows, k.to(exact), v.to(exact), work).flatten(1, 2).type_as(q)


def work_of(pattern, positions, first=0, tile=TILE):
    """A work() for `attention`: queries at positions (T,), keys in slots that begin at position `first`."""
    device, where = positions.device, positions.to("cpu", torch.int32)

    def work():
        for rows, keys, look in pieces(pattern, where, tile):
            if first:  # the text before it is not here
                keys, look = keys[keys >= first] - first, look[:, keys >= first]
            yield rows.to(device), keys.to(device), look.to(device)

    return work


def sparse(pattern, tile=TILE):
    """An attend for the seam, that looks where the pattern does; with any cache or none.

    A mask written out is the matrix already: the pattern is laid over it. UserError for positions that do not
    count up one by one, where there is neither a mask nor a cache.
    """

    def attend(q, k, v, *, positions, cache=None, mask=None):
        if cache is not None:
            k, v = cache.update(k, v, positions)  # (B, K, S, D)
        if mask is not None:
            behind = distance(positions, k.size(2), cache)  # (T, S) or (B, 1, T, S)
            t = positions[:, None] if positions.dim() == 1 else positions[:, None, :, None]
            return materialised(q, k, v, mask & pattern.rule(t, t - behind))
        if cache is None:
            demand((positions.diff(dim=-1) == 1).all(), "without a cache positions count up one by one: "
                   "where they do not, as in packed documents, give a mask")  # fmt: skip
        if positions.dim() == 1:
            first = int(positions[0]) if cache is None and len(positions) else 0
            return attention(q, k, v, work_of(pattern, positions, first, tile))
        rows = [work_of(pattern, at, int(at[0]) if cache is None else 0, tile) for at in positions]
        return torch.cat([attention(q[b : b + 1], k[b : b + 1], v[b : b + 1], work)
                          for b, work in enumerate(rows)])  # fmt: skip

    return attend
