"""Where everything lies, for one forward: found once, used by all layers.

Came before: a row of `SlotCache` is a stretch of memory; position p is its p-th place. New here: that is
looked up in a table (`block_manager.py` keeps them; all layers have the same).

    position p of row b lies in block tables[b, p // size], at place p % size of a pool (blocks, K, size, D)

For attention in place, rows are cut into pieces of at most PIECE positions. A query's row of the sparse
matrix has entries where its keys lie in the whole pool, seen as (blocks * K * size, D).

                      the pool, block after block                      table of a: 7 2 5; of b: 0
                      0 0 0 0 . . . . 2 2 2 2 . . . . 5 5 . . . . 7 7 7 7
    a query of a                      x x x x         x x         x x x x
    a query of b      x x x x
"""

import math
import warnings
from functools import cached_property

import torch

from common.exercise import exercise

PIECE = 128  # keys: few enough to stay in the processor's nearest cache until all heads have read them


class View:
    """tables: a list of block numbers a row. size: tokens a block. positions (B, T): of this forward's
    tokens; the highest of a row is the last that it holds."""

    def __init__(self, tables, size, positions):
        most = max(map(len, tables))
        rows = [row + row[-1:] * (most - len(row)) for row in tables]
        self.tables = torch.tensor(rows, device=positions.device)  # (B, blocks)
        self.size, self.positions, self.made = size, positions, {}
        self.piece = min(PIECE, most * size)  # no longer than the longest row

    @exercise
    def locate(self, positions, rows=slice(None)):
        """Where positions (R, N) of these rows lie, by default of all: (in which blocks, at which places)."""
        return self.tables[rows].gather(1, positions // self.size), positions % self.size

    @cached_property
    def new(self):
        """Where this forward's own tokens lie: two of (B, T)."""
        return self.locate(self.positions)

    @cached_property
    def all(self):
        """Where positions 0, 1, … lie: two of (B, S). Behind a row's last token, that one's place again:
        whatever lies in the rest of its block, another's NaN perhaps, is never read."""
        last = self.positions.amax(1, keepdim=True)  # (B, 1)
        return self.locate(torch.arange(int(last.max()) + 1, device=last.device).minimum(last))

    @cached_property
    def pieces(self):
        """Rows cut into pieces of `piece` tokens, short rows into few; a row's last one goes beyond its end:
        (whose each is (P,), its positions (P, piece))."""
        last = self.positions.amax(1, keepdim=True)  # (B, 1)
        starts = torch.arange(0, int(last.max()) + 1, self.piece, device=last.device)
        rows, i = (starts <= last).nonzero(as_tuple=True)
        return rows, starts[i, None] + torch.arange(self.piece, device=last.device)

    @exercise
    def entries(self, H, K):
        """Who looks where, for each piece: (columns (P, H, piece), seen (P, 1, T, piece)).

        columns: where query head h finds these positions in a pool that is seen as (blocks * K * size, D).
        Heads 0 .. H / K - 1 share key head 0. Behind a row's last token: that one's column again, as in
        `all`. seen: which of them query t sees, positions 0 .. positions[row, t].
        """
        rows, s = self.pieces
        reach = self.positions[rows]  # (P, T)
        blocks, places = self.locate(s.minimum(reach.amax(1, keepdim=True)), rows)  # (P, piece)
        heads = torch.arange(H, device=s.device)[:, None] // (H // K)  # (H, 1)
        columns = (blocks[:, None] * K + heads) * self.size + places[:, None]  # (P, H, piece)
        return columns, (s[:, None] <= reach[..., None])[:, None]

    def matrix(self, H, pool):
        """`entries` as a sparse matrix over a pool (blocks, K, size, D), with a row for each piece, head and
        query, in the order of positions; and what to add to its values: minus infinity where not seen."""
        like = H, pool.shape, pool.dtype
        if like not in self.made:
            columns, seen = self.entries(H, pool.size(1))
            columns = columns[:, :, None].expand(-1, -1, seen.size(2), -1).flatten().int()
            starts = torch.arange(0, len(columns) + 1, self.piece, dtype=torch.int32, device=columns.device)
            shape, zeros = (len(starts) - 1, pool.shape[:3].numel()), pool.new_zeros(len(columns))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                where = torch.sparse_csr_tensor(starts, columns, zeros, shape, check_invariants=False)
            self.made[like] = where, torch.where(seen, 0.0, -math.inf).to(pool.dtype)
        return self.made[like]
