"""Who has which block of the memory: allocation, sharing, copy-on-write, swapping. Policy, without a tensor.

Came before: `SlotStore` of project 12, which reserves the longest text that may come for each that does come.
New here: memory is cut into blocks of a few tokens, and a sequence has a *table*: its n-th block is anywhere.
A block is given out when the first token is to be written into it, so that at most its last one is not full.
Blocks may be in several tables, and are counted: who writes into a block that others read, copies it first.

    table of a   [7] [2] [5]        blocks   0 1 2 3 4 5 6 7
    table of b   [7] [2] [0]        refs     1 0 2 0 0 1 0 2       a and b began alike, or b is a's fork

An operating system does the same with pages. Kwon et al. 2023, "Efficient Memory Management for Large
Language Model Serving with PagedAttention", SOSP, arXiv 2309.06180; Denning 1970, "Virtual Memory".
"""

from common.errors import demand
from common.exercise import exercise

# ---- the arithmetic: what is wasted, and what sharing saves ----


def blocks_for(n, size):
    """How many blocks of `size` tokens hold n tokens."""
    return -(-n // size)


def reserved_waste(lengths, longest):
    """The naive way: room for the longest text for each. The share of it that these lengths leave empty."""
    return 1 - sum(lengths) / (longest * len(lengths))


def paged_waste(lengths, size):
    """The share of the blocks' room that is left empty: only a sequence's last block has any."""
    return 1 - sum(lengths) / (size * sum(blocks_for(n, size) for n in lengths))


def expected_waste(mean, size):
    """What to expect of `paged_waste`: a last block holds 1 to `size` tokens, all alike, so (size - 1) / 2
    places stay empty on average, of mean + (size - 1) / 2. mean: tokens a sequence."""
    empty = (size - 1) / 2
    return empty / (mean + empty)


def shared_savings(count, shared, total, size=1):
    """The share of blocks that `count` sequences of `total` tokens save if the first `shared` are common.

    With blocks of one token (1 - 1 / count) * shared / total; a block that is common in part is no one's.
    """
    alone, common = blocks_for(total, size), shared // size
    return 1 - (common + count * (alone - common)) / (count * alone)


# ---- who has what ----


class BlockManager:
    """`blocks` blocks of `size` tokens. Keeps the promises of project 12's Store, but for `caches`.

    refs[b]: in how many tables block b is, and one more if the prefix index has it; free: those with none, a
    stack. tables[id]: a sequence's blocks in order; held[id]: how many tokens they hold, or will after this
    step. idle: blocks that the index alone has. away: how many blocks may be swapped out to other memory.
    """

    def __init__(self, blocks, size, *, away=0):
        demand(blocks >= 1 and size >= 1, f"{blocks} blocks of {size} tokens: at least one of each")
        demand(away >= 0, f"room for {away} blocks elsewhere: 0 for none")
        self.size, self.capacity, self.room_away = size, blocks * size, away
        self.free, self.refs = list(range(blocks))[::-1], [0] * blocks  # the lowest number lies on top
        self.tables, self.held, self.away = {}, {}, {}
        self.cached, self.idle, self._prefix = set(), set(), None

    def copy(self, source, target):
        """Copy all of one block into another: for a store with real memory, as the three below."""

    def save(self, id, blocks):
        """Put copies of a sequence's blocks elsewhere, under its id."""

    def load(self, id, blocks):
        """Bring those copies back into these blocks, which may be others; they are kept no longer."""

    def lose(self, id):
        """Those copies are not needed any more."""

    def take(self):
        """A free block; it has one owner now. IndexError where there is none: `make_free` first."""
        block = self.free.pop()
        self.refs[block] = 1
        return block

    def hold(self, blocks):
        """One owner more for each."""
        for block in blocks:
            self.refs[block] += 1
            self.idle.discard(block)

    @exercise
    def drop(self, blocks):
        """One owner fewer for each; a block without any is free again. If only the index is left: idle.

        UserError for a block that has no owner: given back twice, it would be given out twice.
        """
        for block in blocks:
            demand(self.refs[block] > 0, f"block {block} is free already: given back twice?")
            self.refs[block] -= 1
            if self.refs[block] == 0:
                self.free.append(block)
            elif self.refs[block] == 1 and block in self.cached:
                self.idle.add(block)

    def make_free(self, n):
        """See that n blocks are free, at the cost of what the prefix index alone has: True.

        False where even that is not enough; then nothing is forgotten.
        """
        if n > len(self.free) + len(self.idle):
            return False
        while len(self.free) < n:
            gone = self.prefix.evict((n - len(self.free)) * self.size)
            if not gone:  # held by somebody outside
                return False
            self.cached.difference_update(gone)
            self.idle.difference_update(gone)
            self.drop(gone)
        return True

    def table(self, id):
        """A sequence's blocks. UserError where none is open under this id."""
        demand(id in self.tables, f"sequence {id} is not open: closed twice?")
        return self.tables[id]

    def can_admit(self, n):
        """Could a new sequence of n tokens, the last of which is not fed yet, be opened now?"""
        return blocks_for(n - 1, self.size) <= len(self.free) + len(self.idle)

    @exercise
    def open(self, id, ids):
        """Begin a table for a sequence; how many of its tokens are there already, always fewer than all.

        What was swapped out under this id comes back, if there is room for it. Else the table begins with the
        blocks that the prefix index knows of ids: shared, not copied. UserError: id is open.
        """
        demand(id not in self.tables, f"sequence {id} is open already")
        self.tables[id], self.held[id] = [], 0
        n = self.away.get(id, 0)
        if n and n < len(ids) and self.reserve(id, n):
            self.load(id, self.tables[id])
            del self.away[id]
            return n
        self.forget(id)
        if self.prefix is not None:
            self.held[id], blocks = self.prefix.match(ids[:-1])
            self.tables[id] = list(blocks)
            self.hold(blocks)
        return self.held[id]

    @exercise
    def reserve(self, id, n):
        """Room for n tokens in all: True; False where there is none, and then nothing has changed.

        More than before: tokens `held` to n - 1 are about to be written. If the first of them goes into a
        block that has other owners, that is copied first; blocks are added as needed. Fewer: what lies
        behind is given back. UserError: not open.
        """
        table, held, need = self.table(id), self.held[id], blocks_for(n, self.size)
        if n > held:
            torn = held % self.size > 0 and self.refs[table[-1]] > 1
            if not self.make_free(need - len(table) + torn):
                return False
            if torn:
                source, table[-1] = table[-1], self.take()
                self.copy(source, table[-1])
                self.drop([source])
            table += [self.take() for _ in range(need - len(table))]
        self.drop(table[need:])
        del table[need:]
        self.held[id] = n
        return True

    def fork(self, id, new):
        """Sequence `new` begins with all that `id` holds, in the same blocks. UserError as above."""
        demand(new not in self.tables, f"sequence {new} is open already")
        self.tables[new], self.held[new] = list(self.table(id)), self.held[id]
        self.hold(self.tables[new])

    def close(self, id):
        """A sequence ends, or gives way. UserError where none is open under this id."""
        self.drop(self.table(id)[::-1])  # its first block will lie on top
        del self.tables[id], self.held[id]

    @property
    def prefix(self):
        """An index of known beginnings (project 10) whose handles are block numbers, or None."""
        return self._prefix

    @prefix.setter
    def prefix(self, index):
        demand(index is None or index.block == self.size,
               f"an index of blocks of {getattr(index, 'block', 0)} tokens over blocks of {self.size}: alike")
        demand(not self.cached, "an index with blocks in it cannot be replaced: who would give them back?")
        self._prefix = index

    @exercise
    def keep(self, id, ids):
        """The first len(ids) tokens of a sequence are computed: the index may have their whole blocks.

        Nothing is copied. The index becomes an owner of the blocks that it takes, and of no others.
        """
        if self.prefix is None:
            return
        whole = len(ids) // self.size
        taken = self.prefix.insert(ids[: whole * self.size], self.table(id)[:whole])
        self.cached.update(taken)
        self.hold(taken)

    def swap_out(self, id):
        """Copy a sequence's blocks elsewhere, before it is closed: True. False: no room there."""
        if len(self.table(id)) + self.blocks_away > self.room_away or not self.held[id]:
            return False
        self.save(id, self.tables[id])
        self.away[id] = self.held[id]
        return True

    @property
    def blocks_away(self):
        """How many blocks are swapped out."""
        return sum(blocks_for(n, self.size) for n in self.away.values())

    def forget(self, id):
        """What was swapped out under this id is not needed any more, if anything was."""
        if self.away.pop(id, None) is not None:
            self.lose(id)

    def owners(self):
        """For each block the ids of the sequences that have it."""
        found = [[] for _ in self.refs]
        for id, table in self.tables.items():
            for block in table:
                found[block].append(id)
        return found

    def picture(self):
        """(a sequence or None, tokens held, size) of each block; None and some: the index alone."""
        found = [(None, self.size if block in self.idle else 0, self.size) for block in range(len(self.refs))]
        for id, table in self.tables.items():
            for i, block in enumerate(table):
                found[block] = id, min(self.size, self.held[id] - i * self.size), self.size
        return found
