"""A sketch: how often was each thing asked for, in a table of fixed size, never too low.

Came before: a Counter, exact, and one entry for every key there ever was. New here: `depth` rows of `width`
counters. A key owns one counter in each row, shares it with strangers, and is counted by its least:
every counter of it is too high or right, so the least is too. *Conservative update* raises no counter further
than that least needs, which keeps the strangers' errors small.

Cormode and Muthukrishnan 2005 (Count-Min, J. Algorithms 55); Estan and Varghese 2002 (conservative update).
"""

import hashlib
import math

from common.errors import demand
from common.exercise import exercise


class CountMin:
    """Counts by key, any whose repr says what it is. seed: of the hashes, the same in every process."""

    def __init__(self, width, depth=4, seed=0):
        demand(width >= 1 and depth >= 1, f"a table of {depth} x {width}: at least one row and one column")
        self.width, self.depth, self.seed, self.total = width, depth, seed, 0
        self.table = [[0] * width for _ in range(depth)]

    def columns(self, key):
        """The key's counter in each row. Not by Python's hash: that of a text differs between processes."""
        text = repr(key).encode()
        for row in range(self.depth):
            digest = hashlib.blake2b(text, digest_size=8, salt=f"{self.seed}:{row}".encode()).digest()
            yield int.from_bytes(digest, "big") % self.width

    @exercise
    def estimate(self, key):
        """How often it was added: never too few."""
        return min(row[column] for row, column in zip(self.table, self.columns(key), strict=True))

    @exercise
    def add(self, key, n=1):
        """Count it n more times, raising only what must be: no counter above the key's new estimate.

        A counter that is higher already stays as it is. `total` counts all that was added.
        """
        demand(n >= 1, f"{n} times: a sketch only counts up")
        level = self.estimate(key) + n
        self.total += n
        for row, column in zip(self.table, self.columns(key), strict=True):
            row[column] = max(row[column], level)

    def bound(self):
        """(error, chance): an estimate is over the truth by more than `error` with at most this chance."""
        return math.e / self.width * self.total, math.exp(-self.depth)


class GroupSketch:
    """One sketch per group, of its own columns, so that a busy group's keys never blur a quiet one's.

    shares: {group: columns}. Each group has a bound of its own: e / its columns x what it added.
    """

    def __init__(self, shares, depth=4, seed=0):
        demand(shares, "no groups: name at least one, with its columns")
        self.of = {group: CountMin(width, depth, seed) for group, width in shares.items()}

    def part(self, group):
        """The group's sketch; UserError where there is none."""
        demand(group in self.of, f"no group {group!r}: there are {', '.join(map(repr, self.of))}")
        return self.of[group]


def fair_widths(distinct, width):
    """{group: columns}, at least one each and `width` in all, in proportion to the groups' distinct keys.

    distinct: {group: how many keys}. Then every group has as many keys a column, and no group's counts are
    blurred more than another's. What rounding down leaves over goes to the largest remainders, first come
    first served. UserError where there are fewer columns than groups.
    """
    demand(width >= len(distinct) >= 1, f"{width} columns for {len(distinct)} groups: at least one each")
    spare, keys = width - len(distinct), sum(distinct.values())
    ideal = {group: spare * n / keys if keys else spare / len(distinct) for group, n in distinct.items()}
    widths = {group: 1 + int(part) for group, part in ideal.items()}
    left = width - sum(widths.values())
    for group in sorted(ideal, key=lambda g: int(ideal[g]) - ideal[g])[:left]:
        widths[group] += 1
    return widths


class HotKeys:
    """The keys that the sketch says were asked for at least `share` of all times: what is worth caching."""

    def __init__(self, sketch, share=0.01):
        demand(0 < share <= 1, f"a share of {share}: in (0, 1]")
        self.sketch, self.share, self.keys = sketch, share, set()

    def see(self, key):
        """Count a key; is it hot now? At most 1 / share keys truly are, and those that cooled are let go."""
        self.sketch.add(key)
        if self.sketch.estimate(key) >= self.share * self.sketch.total:
            self.keys.add(key)
        if len(self.keys) > 2 / self.share:
            floor = self.share * self.sketch.total
            self.keys = {key for key in self.keys if self.sketch.estimate(key) >= floor}
        return key in self.keys
