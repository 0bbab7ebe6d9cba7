"""Attention over pages: every key is read where it lies, and none is ever moved to lie beside its neighbours.

Came before: `SlotCache` of project 12 returns a stretch of memory per row. New here: a row's tokens lie in
blocks anywhere in a pool, in the order of its table (`block_manager.py`). The naive way gathers them into one
stretch and attends to that (`gathered`); it copies all keys and values for every token that is drawn.

    position p of row b   lies in slot   tables[b, p // size] * size + p % size   of pool (slots, K, D)

In place it is a sparse matrix: row (b, h, t) of a matrix over all slots of the pool has entries just where
the table of b says. The scores are q kᵀ at those entries alone, the answer is that matrix times v. torch has
both, on a CPU; on a GPU it is a kernel (`triton_kernel.py`).

Seams: the contract (an addressed cache, made anew each forward), and `attend`. Kwon et al. 2023, 2309.06180.
"""

import math
import warnings
from functools import cached_property, lru_cache
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

FEW = 8  # queries a row; more of them make a copy of the keys cheap, and a large matrix product worth it
SPARSE = (torch.float32, torch.float64)  # what torch multiplies at single entries on a CPU


def gathered(pool, slots):
    """The naive way: rows' tokens copied side by side. pool (slots, K, D), slots (B, S) -> (B, K, S, D)."""
    return pool[slots].transpose(1, 2)


# ---- where everything lies: made once for a forward, used by every block of the model ----


class View:
    """tables: a list of block numbers a row. size: tokens a block. positions (B, T): of this forward."""

    def __init__(self, tables, size, positions):
        most = max(map(len, tables))
        rows = [row + row[-1:] * (most - len(row)) for row in tables]
        self.tables = torch.tensor(rows, device=positions.device)  # (B, blocks)
        self.size, self.positions, self.made = size, positions, {}

    @exercise
    def slots(self, positions):
        """In which slot of the pool each row's positions (B, N) lie: (B, N), numbers from 0."""
        return self.tables.gather(1, positions // self.size) * self.size + positions % self.size

    @cached_property
    def new(self):
        """The slots of this forward's own tokens: (B, T)."""
        return self.slots(self.positions)

    @cached_property
    def all(self):
        """The slots of positions 0, 1, …: (B, S). Behind a row's last token, that one's slot again: whatever
        lies in the rest of its block, another's NaN perhaps, is never read."""
        last = self.positions.amax(1, keepdim=True)  # (B, 1)
        up_to = torch.arange(int(last.max()) + 1, device=last.device)
        return self.slots(torch.minimum(up_to, last))

    @exercise
    def entries(self, H, K):
        """Who looks where: (look (B, H, T, S), columns (N,), starts (B * H * T + 1,)).

        Query (b, h, t) sees positions 0 .. positions[b, t] of its row: look. columns: for one query after the
        other, the rows of a pool of shape (slots * K, D) that hold what it sees, of the key head that serves
        h: heads 0 .. H / K - 1 share key head 0. starts: where in columns each query's begin; at the end, N.
        """
        (B, T), S = self.positions.shape, self.all.size(1)
        look = torch.arange(S, device=self.all.device) <= self.positions[:, None, :, None]  # (B, 1, T, S)
        look = look.expand(B, H, T, S)
        heads = torch.arange(H, device=look.device)[:, None, None] // (H // K)  # (H, 1, 1)
        columns = (self.all[:, None, None] * K + heads).expand(B, H, T, S)[look]  # (N,)
        return look, columns, F.pad(look.sum(-1).flatten().cumsum(0), (1, 0))

    def matrix(self, H, pool):
        """`entries` for a pool (slots, K, D), and a sparse matrix of zeros there. Once for all layers."""
        like = H, *pool.shape[:2], pool.dtype
        if like not in self.made:
            look, columns, starts = self.entries(H, pool.size(1))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                shape, zeros = (len(starts) - 1, len(pool) * pool.size(1)), pool.new_zeros(len(columns))
                where = torch.sparse_csr_tensor(starts, columns, zeros, shape, check_invariants=False)
            self.made[like] = look, columns, starts, where
        return self.made[like]


@exercise
def paged(q, k, v, view):
    """Attention in place: q (B, H, T, D), pools k and v (slots, K, D) -> (B, H, T, D). No gradients.

    `view.matrix` says who looks where. `torch.sparse.sampled_addmm` multiplies q and kᵀ at those entries
    alone; `F.embedding_bag` sums rows of v with weights, for one query after the other.
    """
    look, columns, starts, where = view.matrix(q.size(1), k)
    queries, k, v = q.flatten(0, 2), k.flatten(0, 1), v.flatten(0, 1)  # (B * H * T, D), (slots * K, D) twice
    scores = torch.sparse.sampled_addmm(where, queries, k.T, beta=0.0, alpha=q.size(3) ** -0.5).values()
    table = scores.new_full(look.shape, -math.inf).masked_scatter_(look, scores)  # (B, H, T, S)
    weights = table.softmax(-1)[look]  # (N,)
    return F.embedding_bag(columns, v, starts, mode="sum", per_sample_weights=weights,
                           include_last_offset=True).view(q.shape)  # fmt: skip


# ---- at the seam ----


class PagedCache:
    """One block's keys and values for one forward. pool: (k, v), each (slots, K, D)."""

    def __init__(self, pool, view):
        (self.k, self.v), self.view = pool, view

    @exercise
    def write(self, k, v, positions):
        """Put k and v (B, K, T, D) into the slots of positions (B, T), which are those of the view."""
        B, T = k.size(0), k.size(2)
        demand(positions.shape == (B, T), f"pages take positions ({B}, {T}), not {tuple(positions.shape)}")
        demand(positions is self.view.positions or torch.equal(positions, self.view.positions),
               "these are not the positions that the view was made for: make it anew for each forward")
        self.k[self.view.new] = k.transpose(1, 2)  # (B, T, K, D)
        self.v[self.view.new] = v.transpose(1, 2)

    def update(self, k, v, positions):
        """For an attend that knows nothing of pages: write, then gather all rows, (B, K, S, D) of each."""
        self.write(k, v, positions)
        return gathered(self.k, self.view.all), gathered(self.v, self.view.all)


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
            self.pools.append(tuple(weight.new_zeros(blocks * size, len(weight) // D, D) for _ in "kv"))

    def pages(self):
        """Each pool as blocks: (blocks, size, K, D)."""
        return [x.unflatten(0, (-1, self.size)) for pool in self.pools for x in pool]

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
