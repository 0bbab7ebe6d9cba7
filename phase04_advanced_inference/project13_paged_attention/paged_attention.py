"""Attention over pages: every key is read where it lies, and none is moved to lie beside its neighbours.

Came before: `SlotCache` of project 12 returns a stretch of memory per row. New here: a row's tokens lie in
blocks anywhere in a pool, in the order of its table (`block_manager.py`). The naive way gathers them into one
stretch and attends to that (`gathered`); it copies all keys and values for every token that is drawn.

In place it is a sparse matrix over all keys of the pool, with entries just where the tables say (`view.py`).
The scores are q kᵀ at those entries alone, the answer is that matrix times v. On a CPU torch has both; on a
GPU it is a kernel (`triton_kernel.py`).

Seams: the contract (an addressed cache, made anew each forward), and `attend`. Kwon et al. 2023, 2309.06180.
"""

import math
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F

from common.errors import demand
from common.exercise import exercise
from common.model import attend as attend_to_stretch
from common.model import set_attend
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine
from phase04_advanced_inference.project12_dynamic_batching.scheduler import Scheduler

from .block_manager import BlockManager
from .view import View

FEW = 8  # queries a row; more of them make a copy of the keys cheap, and a large matrix product worth it
SPARSE = (torch.float32, torch.float64)  # what torch multiplies at single entries on a CPU


def gathered(pool, blocks, places):
    """The naive way: rows' tokens copied side by side. pool (blocks, K, size, D), blocks and places (B, S):
    where each lies -> (B, K, S, D)."""
    return pool[blocks, :, places].transpose(1, 2)


@exercise
def paged(q, k, v, view):
    """Attention in place: q (B, H, T, D), pools k and v (blocks, K, size, D) -> (B, H, T, D). No gradients.

    `torch.sparse.sampled_addmm` multiplies q and kᵀ at the entries of the matrix alone; `F.embedding_bag`
    sums rows of v with weights, for each row of the matrix. The largest score and both sums are those of all
    pieces of a row.
    """
    (where, hidden), (rows, _) = view.matrix(q.size(1), k), view.pieces
    k, v, queries = k.flatten(0, 2), v.flatten(0, 2), q[rows]  # (blocks * K * size, D) twice, (P, H, T, D)
    scale, top = q.size(3) ** -0.5, q.new_full((*q.shape[:3], 1), -math.inf)  # (B, H, T, 1)
    scores = torch.sparse.sampled_addmm(where, queries.flatten(0, 2), k.T, beta=0.0, alpha=scale, out=where)
    scores = scores.values().view(*queries.shape[:3], -1).add_(hidden)  # (P, H, T, piece)
    highest = scores.amax(-1, keepdim=True)  # (P, H, T, 1)
    top.scatter_reduce_(0, rows.view(-1, 1, 1, 1).expand_as(highest), highest, "amax")
    weights = scores.sub_(top[rows]).exp_()
    y = F.embedding_bag(where.col_indices(), v, where.crow_indices(), mode="sum", include_last_offset=True,
                        per_sample_weights=weights.flatten()).view(queries.shape)  # fmt: skip
    y, total = (torch.zeros_like(q[..., : x.size(3)]).index_add_(0, rows, x)
                for x in (y, weights.sum(-1, keepdim=True)))  # fmt: skip
    return y / total


# ---- at the seam ----


class PagedCache:
    """One layer's keys and values for one forward. pool: (k, v), each (blocks, K, size, D)."""

    def __init__(self, pool, view):
        (self.k, self.v), self.view = pool, view

    @exercise
    def write(self, k, v, positions):
        """Put k and v (B, K, T, D) where the tables say, at positions (B, T), which are those of the view."""
        B, T = k.size(0), k.size(2)
        demand(positions.shape == (B, T), f"pages take positions ({B}, {T}), not {tuple(positions.shape)}")
        demand(positions is self.view.positions or torch.equal(positions, self.view.positions),
               "these are not the positions that the view was made for: make it anew for each forward")
        blocks, places = self.view.new
        self.k[blocks, :, places] = k.transpose(1, 2)  # (B, T, K, D)
        self.v[blocks, :, places] = v.transpose(1, 2)

    def update(self, k, v, positions):
        """For an attend that knows nothing of pages: write, then gather all rows, (B, K, S, D) of each."""
        self.write(k, v, positions)
        return gathered(self.k, *self.view.all), gathered(self.v, *self.view.all)


@lru_cache
def kernel():
    """The module of the Triton kernel; None where Triton is not installed."""
    if find_spec("triton") is None:
        return None
    from . import triton_kernel

    return triton_kernel


def attend(q, k, v, *, positions, cache=None, mask=None):
    """For the seam: in place for FEW queries a row in a PagedCache; all else as the core does, gathered.

    A long chunk of queries gathers once and multiplies large matrices: there, that is quicker.
    """
    if not isinstance(cache, PagedCache) or mask is not None or q.size(2) > FEW:
        return attend_to_stretch(q, k, v, positions=positions, cache=cache, mask=mask)
    if q.is_cuda and kernel() is not None and kernel().takes(q):  # pragma: no cover - gpu
        cache.write(k, v, positions)
        return kernel().paged(q, cache.k, cache.v, cache.view)
    if q.device.type != "cpu" or q.dtype not in SPARSE:
        return attend_to_stretch(q, k, v, positions=positions, cache=cache)
    cache.write(k, v, positions)
    return paged(q, cache.k, cache.v, cache.view)


# ---- in the engine ----


class PagedStore(BlockManager):
    """Project 12's Store with pages: a BlockManager, and the memory that it manages."""

    def __init__(self, model, blocks, size=16, *, away=0):
        super().__init__(blocks, size, away=away)
        self.pools, self.saved = [], {}
        for block in model.blocks:
            weight, D = block.attn.wk.weight, block.attn.head_dim
            self.pools.append(tuple(weight.new_zeros(blocks, len(weight) // D, size, D) for _ in "kv"))

    def pages(self):
        """The keys of all layers and their values, each (blocks, K, size, D)."""
        return [x for pool in self.pools for x in pool]

    def caches(self, step):
        view = View([self.tables[id] for id in step.ids], self.size, step.positions)
        return [PagedCache(pool, view) for pool in self.pools]

    def copy(self, source, target):
        for x in self.pages():
            x[target] = x[source]

    def save(self, id, blocks):
        self.saved[id] = [x[blocks].cpu() for x in self.pages()]

    def load(self, id, blocks):
        for x, saved in zip(self.pages(), self.saved.pop(id), strict=True):
            x[blocks] = saved.to(x.device)

    def lose(self, id):
        del self.saved[id]


class Swapping(Scheduler):
    """Project 12's scheduler, but who gives way is copied elsewhere, if there is room, and not read again."""

    def preempt(self, sequence):
        self.store.swap_out(sequence.id)
        super().preempt(sequence)

    def finish(self, sequence):
        self.store.forget(sequence.id)
        return super().finish(sequence)


def build_engine(model, *, blocks=256, size=16, max_batch=16, max_step_tokens=256, prefix=False, draft=None,
                 away=0, in_place=True, **options):  # fmt: skip
    """Projects 10 to 13 in one Engine: `blocks` of `size` tokens, and switches.

    prefix: share known beginnings (project 10). draft: guesses (project 11). away: how many blocks may be
    swapped out; 0 preempts by reading again. in_place: `attend`, else the model's own, gathered. options:
    see `Engine`.
    """
    store = PagedStore(model, blocks, size, away=away)
    if in_place:
        set_attend(model, attend)
    engine = Engine(model, store, max_batch=max_batch, max_step_tokens=max_step_tokens, draft=draft,
                    prefix=PrefixIndex(size) if prefix else None, **options)  # fmt: skip
    if away:
        engine.scheduler = Swapping(store, max_batch=max_batch, max_step_tokens=max_step_tokens)
    return engine
