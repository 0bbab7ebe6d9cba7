"""Flash attention in PyTorch: the softmax summed tile by tile, forward and backward, exact.

Before: `common.model.attend` leaves the sum to a library; `materialised`, below, writes it out, and holds a
matrix of T x S numbers three times over. New here: `fold`, a softmax that takes its keys in any number of
parts, and so never holds more than one tile of that matrix. Seam: `attend`.

    who sees whom   reach (B or 1, T): query t sees keys 0 .. reach[t] - 1. One rule for training, for caches
                    and for rows at different places; or a mask (B, H, T, S), True = look, in its stead.
    heads           G = H / K query heads read one key head: they become G times as many rows of queries.

Milakov & Gimelshein 2018, arXiv 1805.02867 (the running softmax); Dao et al. 2022, arXiv 2205.14135; Dao
2023, arXiv 2307.08691 (queries outside, keys inside, one division at the end)."""

import math

import torch
from torch.autograd.function import once_differentiable

from common.errors import demand
from common.exercise import exercise

TILE = 256  # rows and columns of a tile: 256 x 256 scores of a head are 256 KB, which a core's cache can hold
LOW = -1e30  # where the running maximum begins: below every score, above the -inf of what is hidden


def materialised(q, k, v, look):
    """Attention as the formula has it. q (B, H, T, D), k, v (B, K, S, D), look (..., T, S) -> as q."""
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))  # (B, H, S, D)
    scores = q / math.sqrt(q.size(-1)) @ k.mT  # (B, H, T, S): here is the matrix,
    p = scores.masked_fill(~look, -math.inf).softmax(-1)  # (B, H, T, S): and twice again
    return p @ v


# ---- one tile ----------------------------------------------------------------------------------------------

@exercise
def key_tiles(reach, size):
    """Which tiles of `size` keys these queries need: [(start, stop, whole)], none that all of them may skip.

    reach (B or 1, N): query n sees keys 0 .. reach[n] - 1. The last tile stops at the furthest reach. whole:
    every query of every row sees all of the tile, so nothing in it has to be hidden.
    """
    nearest, furthest = int(reach.min()), int(reach.max())
    stops = ((start, min(start + size, furthest)) for start in range(0, furthest, size))
    return [(start, stop, stop <= nearest) for start, stop in stops]


@exercise
def in_reach(reach, start, stop):
    """Who sees whom in one tile: (B or 1, N, M), True = look.

    reach (B or 1, N): query n sees keys 0 .. reach[n] - 1. The tile's M keys are start .. stop - 1.
    """
    return torch.arange(start, stop, device=reach.device) < reach[..., None]


@exercise
def fold(state, scores, v):
    """Take one more tile of keys into a running softmax; returns the new state.

    state: m (..., R, 1) the largest score so far, LOW at first; l (..., R, 1) the sum of exp(score - m); y
    (..., R, D) the sum of exp(score - m) times its row of v. scores (..., R, M), -inf where hidden; may be
    overwritten. v (..., M, D). No score is ever exponentiated before a maximum is taken off it.
    """
    m, l, y = state
    largest = torch.maximum(m, scores.amax(-1, keepdim=True))  # (..., R, 1)
    p = scores.sub_(largest).exp_()  # (..., R, M)
    rescale = (m - largest).exp()  # what was summed under the old maximum, under the new one
    return largest, l * rescale + p.sum(-1, keepdim=True), y * rescale + p @ v


@exercise
def finish(state):
    """A folded state -> y (..., R, D), and lse (..., R, 1), the log of the sum of exp(score) over all keys.

    Where a row saw no key at all, y is 0 and lse is LOW.
    """
    m, l, y = state
    l = l.clamp_min(1.0)  # the largest score adds exp(0), so that only a row that saw nothing is below 1
    return y / l, m + l.log()


@exercise
def tile_gradients(q, k, v, scores, lse, dy, delta):
    """What one tile adds to the gradients: dq (..., R, D), dk (..., M, D), dv (..., M, D).

    q (..., R, D), already divided by sqrt(D), and dq is the gradient of that q. k and v (..., M, D). scores
    (..., R, M) = q kᵀ, -inf where hidden; may be overwritten. lse (..., R, 1) from `finish`. dy (..., R, D):
    what flows back into y; delta (..., R, 1): the sum of dy * y over D.
    """
    p = scores.sub_(lse).exp_()  # (..., R, M), the probabilities themselves, as lse knows the whole sum
    dv = p.mT @ dy
    dscores = (dy @ v.mT).sub_(delta).mul_(p)  # softmax: p (dp - sum of p dp), and that sum is delta
    return dscores @ k, dscores.mT @ q, dv


# ---- all tiles ---------------------------------------------------------------------------------------------

class Tiles:
    """Walks over the tiles of one attention: q (B, K, G, T, D), k (B, K, S, D)."""

    def __init__(self, q, k, reach, mask, size):
        self.k, self.reach, self.mask, self.size, (self.G, self.T) = k, reach, mask, size, q.shape[2:4]

    def rows(self):
        """A slice of T for every tile of queries."""
        return [slice(i, i + self.size) for i in range(0, self.T, self.size)]

    def keys(self, rows):
        """(slice of S, look) for every tile of keys that these queries need. look: None (all of it), or
        (B or 1, 1 or K, 1 or G, N, M)."""
        if self.mask is not None:
            tiles = (slice(j, j + self.size) for j in range(0, self.k.size(2), self.size))
            return [(keys, self.mask[..., rows, keys]) for keys in tiles]
        reach = self.reach[:, rows]
        return [(slice(start, stop), None if whole else in_reach(reach, start, stop)[:, None, None])
                for start, stop, whole in key_tiles(reach, self.size)]  # fmt: skip

    def scores(self, q, keys, look):
        """q (B, K, G * N, D) against a tile of keys: (B, K, G * N, M), -inf where hidden."""
        scores = q @ self.k[:, :, keys].mT
        if look is not None:
            groups = scores.unflatten(2, (self.G, -1))  # (B, K, G, N, M), the same memory
            groups.masked_fill_(~look, -math.inf)
        return scores


class Flash(torch.autograd.Function):
    """(q, k, v, reach, mask, size) -> y. q (B, K, G, T, D), scaled, k and v (B, K, S, D), float32 or float64.

    Kept for the way back: q, k, v, y and one number a row, lse. Not the matrix: it is computed again.
    """

    @staticmethod
    def forward(ctx, q, k, v, reach, mask, size):
        tiles, y, lse = Tiles(q, k, reach, mask, size), torch.empty_like(q), q.new_empty(*q.shape[:-1], 1)
        for rows in tiles.rows():
            tile = q[..., rows, :].flatten(2, 3)  # (B, K, G * N, D)
            none = tile.new_zeros(*tile.shape[:-1], 1)
            state = none + LOW, none, torch.zeros_like(tile)
            for keys, look in tiles.keys(rows):
                state = fold(state, tiles.scores(tile, keys, look), v[:, :, keys])
            for whole, part in zip((y, lse), finish(state), strict=True):
                whole[..., rows, :] = part.unflatten(2, (q.size(2), -1))  # (B, K, G, N, D or 1)
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.sight = reach, mask, size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        q, k, v, y, lse = ctx.saved_tensors
        tiles, dq, dk, dv = Tiles(q, k, *ctx.sight), *(torch.zeros_like(x) for x in (q, k, v))
        delta = (dy * y).sum(-1, keepdim=True)  # (B, K, G, T, 1)
        for rows in tiles.rows():
            tile, *row = (x[..., rows, :].flatten(2, 3) for x in (q, lse, dy, delta))  # (B, K, G * N, …)
            for keys, look in tiles.keys(rows):
                scores = tiles.scores(tile, keys, look)
                parts = tile_gradients(tile, k[:, :, keys], v[:, :, keys], scores, *row)
                dq[..., rows, :] += parts[0].unflatten(2, (q.size(2), -1))
                dk[:, :, keys] += parts[1]
                dv[:, :, keys] += parts[2]
        return dq, dk, dv, None, None, None


# ---- the seam ----------------------------------------------------------------------------------------------

def flash(q, k, v, reach, mask=None, size=TILE):
    """Exact attention without its matrix. q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D), in q's dtype.

    reach (B or 1, T) or mask (broadcasts to (B, H, T, S)): see above; a mask replaces the reach. 16-bit input
    is computed in float32. UserError where H is no multiple of K.
    """
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    demand(H % K == 0, f"{H} query heads do not divide among {K} key heads: H must be a multiple of K")
    exact = torch.promote_types(q.dtype, torch.float32)
    rows = (q.to(exact) / math.sqrt(D)).unflatten(1, (K, H // K))  # (B, K, G, T, D)
    if mask is not None:
        mask = mask.expand(B, H, T, S).unflatten(1, (K, H // K))  # (B, K, G, T, S), a view
    with torch.autocast(q.device.type, enabled=False):  # it would make the tiles 16-bit again
        return Flash.apply(rows, k.to(exact), v.to(exact), reach, mask, size).flatten(1, 2).type_as(q)


def reach_of(positions, cache=None):
    """How many keys each query sees, (B or 1, T): in a cache slot s holds position s; without one, key t is
    the token of query t."""
    if cache is None:
        return torch.arange(1, positions.size(-1) + 1, device=positions.device)[None]
    return positions.reshape(-1, positions.size(-1)) + 1


def plain(q, k, v, *, positions, cache=None, mask=None):
    """`materialised` for the seam: the matrix written out."""
    if cache is not None:
        k, v = cache.update(k, v, positions)  # (B, K, S, D)
    if mask is None:
        reach = reach_of(positions, cache)  # (B or 1, T)
        mask = torch.arange(k.size(2), device=q.device) < reach[:, None, :, None]  # (B or 1, 1, T, S)
    return materialised(q, k, v, mask)


def attend(q, k, v, *, positions, cache=None, mask=None):
    """For the seam: what `common.model.attend` does, tile by tile."""
    if cache is not None:
        k, v = cache.update(k, v, positions)  # (B, K, S, D)
    return flash(q, k, v, reach_of(positions, cache), mask)
