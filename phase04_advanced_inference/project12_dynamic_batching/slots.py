"""Where keys and values lie: the Store, and the first one, with a slot of fixed size for each sequence.

Came before: `StaticCache` of project 8, whose rows are the rows of the batch, for good. New here: a row
belongs to a request for as long as it runs, and a step reads and writes whichever rows it needs. Cache
objects are made anew for every forward and hold nothing, so there is nothing to reset.

Seam: the contract; an addressed cache per block, `update(k, v, positions (B, T))`.
"""

from typing import Protocol

import torch

from common.errors import demand
from common.exercise import exercise


class Store(Protocol):
    """What an engine asks of the memory for keys and values. Project 13 gives it pages.

    `capacity`: how many tokens one sequence may hold, if it is alone. `prefix`: an index of known beginnings
    (project 10), or None; then `open` looks there, `keep` tells it, and a store that is short of room may
    evict from it. A store may also have `place(id) -> int`: the rows of a forward come in that order.
    """

    capacity: int
    prefix: object

    def can_admit(self, n) -> bool: ...  # could a new sequence of n tokens be opened now?

    def open(self, id, ids) -> int: ...  # -> how many of ids are there already; always fewer than all

    def reserve(self, id, n) -> bool: ...  # may sequence id hold n tokens in all? True: it does now

    def caches(self, step) -> list: ...  # one addressed cache per block for a `Step`

    def keep(self, id, ids): ...  # the first len(ids) tokens of id are computed: a prefix index may have them

    def fork(self, id, new): ...  # sequence `new` begins as a copy of id

    def close(self, id): ...  # its room is free

    def picture(self) -> list: ...  # for drawings: one (id or None, tokens held, of how many) a place


class SlotCache:
    """One block's view of some slots, for one forward. pool: (k, v), each (slots, K, size, D).

    rows: which slot each row of the batch writes to and reads from. longest: so many tokens the longest row
    holds after this forward; what lies behind is not looked at.
    """

    def __init__(self, pool, rows, longest):
        self.k, self.v = pool
        self.rows, self.longest = rows, longest

    @exercise
    def update(self, k, v, positions):
        """Write k and v (B, K, T, D) at positions (B, T) of the rows' slots; (B, K, longest, D) of each.

        Other slots are neither written nor returned. Neighbouring slots in order are returned as a view:
        nothing is copied. UserError unless there is a position for every token.
        """
        B, T = k.size(0), k.size(2)
        demand(positions.shape == (B, T), f"slots take positions ({B}, {T}), not {tuple(positions.shape)}")
        rows = torch.tensor(self.rows, device=k.device)
        self.k[rows[:, None], :, positions] = k.transpose(1, 2)  # (B, T, K, D)
        self.v[rows[:, None], :, positions] = v.transpose(1, 2)
        first = self.rows[0]
        if self.rows == list(range(first, first + B)):
            rows = slice(first, first + B)
        return self.k[rows, :, : self.longest], self.v[rows, :, : self.longest]


class SlotStore:
    """Room for `slots` sequences of at most `size` tokens each, reserved whether they need it or not.

    budget: how many tokens they may hold all together; by default what the slots can hold. One that is
    smaller stands for memory that was promised twice: `reserve` says no when it is spent.
    """

    def __init__(self, model, slots, size, *, budget=None):
        demand(slots >= 1 and size >= 1, f"{slots} slots of {size} tokens: at least one of each")
        budget = slots * size if budget is None else budget
        demand(budget >= 1, f"a budget of {budget} tokens holds nothing")
        self.size, self.budget, self.prefix = size, budget, None
        self.capacity = min(size, budget)
        self.pools = []
        for block in model.blocks:
            weight, D = block.attn.wk.weight, block.attn.head_dim
            self.pools.append(tuple(weight.new_zeros(slots, len(weight) // D, size, D) for _ in "kv"))
        self.free, self.slot, self.held = list(range(slots)), {}, {}

    def can_admit(self, n):
        return bool(self.free) and n <= self.size + 1 and sum(self.held.values()) + n - 1 <= self.budget

    def open(self, id, ids):
        demand(id not in self.slot, f"sequence {id} is open already")
        demand(self.free, "no slot is free: ask can_admit first")
        self.free.sort()  # the lowest first: neighbours are read without copying
        self.slot[id], self.held[id] = self.free.pop(0), 0
        return 0 if self.prefix is None else self.load(id, ids)

    def load(self, id, ids):
        """Copy what the prefix index knows of ids into the slot; at least the last token is left to feed."""
        n, blocks = self.prefix.match(ids[:-1])  # blocks of tokens, each (2 L, K, block, D)
        if not n or not self.reserve(id, n):
            return 0
        known = torch.cat(blocks, dim=2)  # (2 L, K, n, D)
        for layer, x in zip(known, (x for pool in self.pools for x in pool), strict=True):
            x[self.slot[id], :, :n] = layer
        return n

    def keep(self, id, ids):
        """Give the prefix index copies of the blocks it has not; of it, no more than `budget` tokens stay."""
        if self.prefix is None:
            return
        row, block = self.slot[id], self.prefix.block
        end, (n, blocks) = len(ids) // block * block, self.prefix.match(ids)
        layers = [x for pool in self.pools for x in pool]
        new = [torch.stack([x[row, :, i : i + block] for x in layers]) for i in range(n, end, block)]
        self.prefix.insert(ids[:end], [*blocks, *new])
        self.prefix.evict(max(0, self.prefix.tokens - self.budget))

    def reserve(self, id, n):
        demand(id in self.slot, f"sequence {id} is not open")
        if n > self.size or sum(self.held.values()) - self.held[id] + n > self.budget:
            return False
        self.held[id] = n
        return True

    def place(self, id):
        return self.slot[id]

    def caches(self, step):
        rows = [self.slot[id] for id in step.ids]
        return [SlotCache(pool, rows, step.longest) for pool in self.pools]

    def fork(self, id, new):
        demand(id in self.slot and new not in self.slot, f"{id} must be open to fork it, and {new} not yet")
        held = self.held[id]
        demand(self.can_admit(held + 1), "no room for a fork: ask can_admit first")
        self.free.sort()
        self.slot[new], self.held[new] = self.free.pop(0), held
        for pool in self.pools:
            for x in pool:
                x[self.slot[new], :, :held] = x[self.slot[id], :, :held]

    def close(self, id):
        """UserError where nothing is open under this id: freed twice, a slot would have two owners."""
        demand(id in self.slot, f"sequence {id} is not open: closed twice?")
        row = self.slot.pop(id)
        for k, v in self.pools:  # a NaN left behind would reach the next owner: 0 x NaN is NaN
            k[row, :, : self.held[id]], v[row, :, : self.held[id]] = 0, 0
        del self.held[id]
        self.free.append(row)

    def picture(self):
        owner = {row: id for id, row in self.slot.items()}
        slots = self.pools[0][0].size(0)
        return [(owner.get(row), self.held.get(owner.get(row), 0), self.size) for row in range(slots)]
