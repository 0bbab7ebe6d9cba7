"""Eviction: a cache holds at most so many tokens, after every single operation.

Came before: caches that grow. New here: a store with a budget *in tokens*, since that is what memory costs
(a budget in entries lets one long prompt weigh as much as a thousand short ones), and answers to who
goes first. A policy is a function `worth(item, now) -> number`; whatever is worth least goes.

What is longer than the whole budget is refused before anything is evicted for it, and the store says so.

O'Neil et al. 1993 (LRU-K), Cao & Irani 1997 (GreedyDual-Size: size matters), Lee et al. 2001 (LRFU, the mix
of recency and frequency), Belady 1966 (the optimum, which knows the future).
"""

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from common.errors import demand
from common.exercise import exercise


@dataclass
class Item:
    """What is held under one key. used and born: ticks of the store; kept: seconds on its clock."""

    value: Any
    size: int  # tokens
    used: int
    born: int
    kept: float
    hits: int = 1
    weight: float = 1.0  # hits, each half as heavy once `half_life` ticks old


class Put(NamedTuple):
    """What became of an item. evicted: the keys that went for it; why: one line, where it was not kept."""

    kept: bool
    evicted: tuple
    why: str = ""


# ---- policies: how much is an item worth at tick `now`? ----


def lru(item, now):
    """Least recently used goes first."""
    return item.used


@exercise
def token_aware(item, now):
    """An item is worth less the longer it has lain idle (in ticks, one for the present) and the more tokens
    it occupies meanwhile: minus idle ticks times tokens, the room it has wasted."""
    return -(now - item.used + 1) * item.size


HALF_LIFE = 32  # ticks


def frequent(item, now):
    """LRFU: an item's hits, each counting half as much for every HALF_LIFE ticks that it is past.

    item.weight is that sum as it was at tick item.used.
    """
    return item.weight * 0.5 ** ((now - item.used) / HALF_LIFE)


class TokenStore:
    """Values by key, of at most `budget` tokens together. ttl: seconds after which an item is void.

    clock: seconds, for ttl alone; recency is counted in ticks, one an operation, so that it repeats exactly.
    """

    def __init__(self, budget, worth=lru, ttl=math.inf, clock=time.monotonic):
        demand(budget >= 1, f"a budget of {budget} tokens holds nothing: at least 1")
        demand(ttl > 0, f"a ttl of {ttl} seconds: above 0, or leave it out")
        self.budget, self.worth, self.ttl, self.clock = budget, worth, ttl, clock
        self.items, self.tokens, self.tick = {}, 0, 0

    def __len__(self):
        return len(self.items)

    def drop(self, key):
        """Forget an item; its tokens are free again."""
        self.tokens -= self.items.pop(key).size

    def expire(self):
        """Forget what is older than the ttl, and say which keys that were."""
        due = self.clock() - self.ttl
        old = [key for key, item in self.items.items() if item.kept <= due]
        for key in old:
            self.drop(key)
        return old

    @exercise
    def get(self, key):
        """The value under a key, or None. A hit makes the item as recent as can be: its use, hits, weight.

        What the ttl has voided is gone, and no hit.
        """
        self.tick += 1
        self.expire()
        item = self.items.get(key)
        if item is None:
            return None
        item.weight = 1 + frequent(item, self.tick)
        item.used, item.hits = self.tick, item.hits + 1
        return item.value

    @exercise
    def put(self, key, value, size):
        """Hold a value of `size` tokens, in place of what the key held: a Put. Whoever is worth least goes.

        Nothing goes that need not, and never does `tokens` exceed the budget, not even in between. An item
        longer than the budget is refused: nothing goes for it, but what its key held is void. UserError for
        a size under 1.
        """
        demand(size >= 1, f"an item of {size} tokens: at least 1")
        self.tick += 1
        self.expire()
        if key in self.items:
            self.drop(key)
        if size > self.budget:
            return Put(False, (), f"{size} tokens do not fit into a budget of {self.budget}: not kept")
        evicted = []
        while self.tokens + size > self.budget:
            evicted.append(min(self.items, key=lambda k: self.worth(self.items[k], self.tick)))
            self.drop(evicted[-1])
        self.items[key] = Item(value, size, self.tick, self.tick, self.clock())
        self.tokens += size
        return Put(True, tuple(evicted))


def optimal_hits(trace, budget):
    """Hits of Belady's rule on [(key, size)]: out goes whatever is needed again last. It knows the future.

    For items of one size nothing can do better (Belady 1966); for several sizes it is a strong yardstick.
    """
    later, following = {}, [math.inf] * len(trace)
    for at in range(len(trace) - 1, -1, -1):
        following[at] = later.get(trace[at][0], math.inf)
        later[trace[at][0]] = at
    held, hits = {}, 0  # key -> (when it is needed again, size)
    for (key, size), again in zip(trace, following, strict=True):
        hits += key in held
        held[key] = again, size
        while sum(size for _, size in held.values()) > budget:
            del held[max(held, key=lambda k: held[k][0])]
    return hits
