"""Who looks at whom: sparse patterns as rules about positions, and the keys that a run of queries needs.

Before: `common.model.attend`, where query t sees all keys s <= t, T² / 2 pairs. New here: rules that leave
most of them out. A pattern is a union of parts, and a part answers two questions:

    look(t, s)    may position t see position s? Any integer tensors that broadcast; the text, and the oracle
    keys(rows)    which keys at all do these queries need? Nothing here ever writes down T x S pairs

A part says nothing about the future; that is hidden once, in `Pattern.look`. A part with `step` d lets a
query see only keys at multiples of d behind it: `block_sparse.py` puts queries together that are d apart.

Child et al. 2019, arXiv 1904.10509 (fixed, strided: n sqrt n pairs); Beltagy et al. 2020, arXiv 2004.05150
(Longformer: windows, dilated, and global tokens: n); Zaheer et al. 2020, arXiv 2007.14062 (BigBird: windows,
global and random blocks: n); Xiao et al. 2023, arXiv 2309.17453 (attention sinks)."""

import math
from dataclasses import dataclass, field

import torch

from common.errors import demand
from common.exercise import exercise


def arange(*bounds):
    return torch.arange(*bounds, dtype=torch.int32)


# ---- parts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Near:
    """The last `width` keys at distances 0, step, 2 step …; width None: all of them, back to the start."""

    width: int | None
    step: int = 1

    def __post_init__(self):
        demand(self.width is None or self.width >= 1, f"a window of {self.width}: a query sees itself")
        demand(self.step >= 1, f"a step of {self.step}: it must be at least 1")

    @exercise
    def look(self, t, s):
        """True where key s lies behind query t by a multiple of step, and by less than width * step."""
        behind = t - s
        on_step = behind % self.step == 0
        return on_step if self.width is None else on_step & (behind < self.width * self.step)

    @exercise
    def keys(self, rows):
        """The positions of keys, ascending (M,), that some query sees of `rows`, a range of positions.

        Neighbours in rows are a multiple of step apart, so that they all see the same column of keys. A key
        that none of them sees is not among them, nor one before position 0.
        """
        first = rows[0] % self.step
        if self.width is not None:
            first = max(first, rows[0] - (self.width - 1) * self.step)
        return arange(first, rows[-1] + 1, self.step)


@dataclass(frozen=True)
class Blocks:
    """Keys of the query's own block of `size` tokens, and of the count - 1 blocks before it."""

    size: int
    count: int = 1
    step = 1

    def __post_init__(self):
        demand(min(self.size, self.count) >= 1, "blocks have a size of at least 1, and are at least 1")

    def look(self, t, s):
        apart = t // self.size - s // self.size
        return (apart >= 0) & (apart < self.count)

    def keys(self, rows):
        first = rows[0] // self.size - self.count + 1
        return arange(max(0, first) * self.size, rows[-1] + 1)


@dataclass(frozen=True)
class Columns:
    """The last `count` keys of every block of `size` tokens: what the block has to say to all later ones."""

    size: int
    count: int = 1
    step = 1

    def __post_init__(self):
        demand(1 <= self.count <= self.size, f"{self.count} columns of a block of {self.size}")

    @exercise
    def look(self, t, s):
        """True where key s is one of the last count of its block, whatever t is; of the shape of s."""
        return s % self.size >= self.size - self.count

    @exercise
    def keys(self, rows):
        """The positions of such keys, ascending (M,), up to the last of `rows`, a range of positions."""
        starts = arange(0, rows[-1] + 1, self.size)[:, None]  # (blocks, 1)
        found = (starts + arange(self.size - self.count, self.size)).flatten()  # (blocks * count,)
        return found[found <= rows[-1]]


@dataclass(frozen=True)
class Global:
    """The tokens at `places`: they are seen by all, and see all that came before them."""

    places: tuple[int, ...]
    step = 1

    def __post_init__(self):
        demand(self.places and min(self.places) >= 0, f"global tokens at {self.places}: give their positions")

    def look(self, t, s):
        places = torch.tensor(self.places, device=t.device)
        return torch.isin(t, places) | torch.isin(s, places)

    def keys(self, rows):
        seeing = [place for place in self.places if place in rows]
        seen = torch.tensor([place for place in self.places if place <= rows[-1]], dtype=torch.int32)
        return torch.cat((arange(max(seeing, default=-1) + 1), seen)).unique()


@dataclass(frozen=True)
class Random:
    """For each block of queries `count` earlier blocks of keys, drawn once and for all from the seed."""

    size: int
    count: int
    seed: int = 0
    step = 1
    drawn: dict = field(default_factory=dict, compare=False, repr=False)  # block of queries -> blocks of keys

    def __post_init__(self):
        demand(min(self.size, self.count) >= 1, "random blocks have a size of at least 1, and are at least 1")

    @exercise
    def chosen(self, block):
        """The numbers of the blocks that block number `block` sees: (count,), or all where fewer precede it.

        All different, all smaller than `block`, as likely as one another; a pure function of (seed, block).
        """
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + block)
        return torch.randperm(block, generator=draw)[: self.count]

    def blocks(self, block):
        """`chosen`, kept."""
        if block not in self.drawn:
            self.drawn[block] = self.chosen(block).to(torch.int32)
        return self.drawn[block]

    def look(self, t, s):
        seen = torch.zeros_like(t + s, dtype=torch.bool)
        for block in (t // self.size).unique().tolist():
            seen |= (t // self.size == block) & torch.isin(s // self.size, self.blocks(block).to(s.device))
        return seen

    def keys(self, rows):
        numbers = range(rows[0] // self.size, rows[-1] // self.size + 1)
        found = torch.cat([self.blocks(number) for number in numbers]).unique()[:, None]
        return (found * self.size + arange(self.size)).flatten()


# ---- patterns ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """The union of its parts, of which the future is hidden."""

    parts: tuple

    def rule(self, t, s):
        """May t see s, the future not considered? Broadcast over both."""
        found = self.parts[0].look(t, s)
        for part in self.parts[1:]:
            found = found | part.look(t, s)
        return found

    def look(self, t, s):
        """May t see s? bool, broadcast over both: the pattern written out."""
        return self.rule(t, s) & (s <= t)

    def keys(self, rows):
        """The positions, ascending (M,) int32, of all keys that some query of `rows` sees, and no others."""
        found = []
        for part in self.parts:
            apart = part.step // math.gcd(part.step, rows.step)  # these share their columns of keys
            found += [part.keys(rows[i::apart]) for i in range(min(apart, len(rows)))]
        return found[0] if len(found) == 1 else torch.cat(found).unique()

    def groups(self):
        """[(step, the parts of that step, the parts of the groups before)]: to be computed one by one."""
        steps = list(dict.fromkeys(part.step for part in self.parts))
        found, before = [], ()
        for step in steps:
            parts = tuple(part for part in self.parts if part.step == step)
            found.append((step, Pattern(parts), Pattern(before)))
            before += parts
        return found


def pattern(*parts):
    return Pattern(parts)


def causal():
    """All that came before: T² / 2 pairs."""
    return pattern(Near(None))


def window(width, dilation=1):
    """A query sees itself and the width - 1 before it, every dilation-th: T * width pairs."""
    return pattern(Near(width, dilation))


def sinks(width, first=4):
    """A window, and the first tokens of the text, on which attention rests that has nowhere else to go."""
    return pattern(Global(tuple(range(first))), Near(width))


def longformer(width, places=(0,), dilation=1):
    """A window, dilated or not, and global tokens anywhere: T * (width + places) pairs."""
    return pattern(Global(tuple(places)), Near(width, dilation))


def bigbird(size, near=3, first=1, random=2, seed=0):
    """Blocks of `size`: the own and near - 1 before it, the first ones, for all, and random ones."""
    return pattern(Blocks(size, near), Global(tuple(range(first * size))), Random(size, random, seed))


def fixed(size, count=1):
    """The own block, and the last `count` tokens of each before it: with size = sqrt T, T * sqrt T pairs."""
    return pattern(Blocks(size), Columns(size, count))


def strided(size):
    """The last `size` tokens, and every size-th before them: with size = sqrt T, T * sqrt T pairs."""
    return pattern(Near(size), Near(None, size))
