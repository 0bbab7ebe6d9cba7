"""The policy: against pages of plain Python lists, by random operations, and against arithmetic by hand."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.errors import UserError
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex
from phase04_advanced_inference.project13_paged_attention.block_manager import (
    BlockManager,
    blocks_for,
    expected_waste,
    paged_waste,
    reserved_waste,
    shared_savings,
)


class Written(BlockManager):
    """A manager with memory: pages[block][place] is the whole text up to the token that was written there."""

    def __init__(self, blocks, size, **options):
        super().__init__(blocks, size, **options)
        self.pages, self.saved = [[None] * size for _ in range(blocks)], {}

    def copy(self, source, target):
        self.pages[target] = list(self.pages[source])

    def save(self, id, blocks):
        self.saved[id] = [list(self.pages[block]) for block in blocks]

    def load(self, id, blocks):
        for block, page in zip(blocks, self.saved.pop(id), strict=True):
            self.pages[block] = page

    def lose(self, id):
        del self.saved[id]

    def write(self, id, ids, start):
        """Tokens start, start + 1, … of ids are computed, as a forward would."""
        for p in range(start, len(ids)):
            self.pages[self.tables[id][p // self.size]][p % self.size] = tuple(ids[: p + 1])

    def read(self, id):
        return [self.pages[self.tables[id][p // self.size]][p % self.size] for p in range(self.held[id])]


class Crowd:
    """Sequences that come, grow, fork, go back, are swapped and end; `check` says what must always hold."""

    def __init__(self, blocks=11, size=3, away=4, indexed=True):
        self.manager = Written(blocks, size, away=away)
        self.manager.prefix = PrefixIndex(size) if indexed else None
        self.ids, self.next, self.done = {}, 0, 0

    def pick(self, number):
        return sorted(self.ids)[number % len(self.ids)] if self.ids else None

    def come(self, number, ids):
        m = self.manager
        room = m.can_admit(len(ids) + 1)
        n = m.open(self.next, ids)
        assert n < len(ids) and n % m.size == 0
        there = m.reserve(self.next, len(ids))
        assert there or not room, "what was promised is kept"
        if there:
            m.write(self.next, ids, n)
            self.ids[self.next] = list(ids)
        else:
            m.close(self.next)
        self.next += 1

    def grow(self, number, ids):
        if (id := self.pick(number)) is None:
            return
        before, m = (list(self.manager.refs), list(self.manager.tables[id])), self.manager
        longer = self.ids[id] + ids
        if m.reserve(id, len(longer)):
            m.write(id, longer, len(self.ids[id]))
            self.ids[id] = longer
        else:
            assert before == (m.refs, m.tables[id]), "a refusal changed something"

    def go_back(self, number, ids):
        if (id := self.pick(number)) is not None:
            self.ids[id] = self.ids[id][: 1 + number % len(self.ids[id])]
            assert self.manager.reserve(id, len(self.ids[id]))

    def fork(self, number, ids):
        if (id := self.pick(number)) is not None:
            free = len(self.manager.free)
            self.manager.fork(id, self.next)
            assert len(self.manager.free) == free, "a fork takes no memory"
            self.ids[self.next] = list(self.ids[id])
            self.next += 1

    def keep(self, number, ids):
        if (id := self.pick(number)) is not None:
            free = len(self.manager.free)
            self.manager.keep(id, self.ids[id])
            assert len(self.manager.free) == free

    def leave(self, number, ids):
        if (id := self.pick(number)) is not None:
            self.manager.close(id)
            del self.ids[id]
            with pytest.raises(UserError, match="not open"):
                self.manager.close(id)

    def give_way(self, number, ids):
        """Swapped out, others come in between, then it is back, as it was or as a beginner."""
        if (id := self.pick(number)) is None:
            return
        m, text = self.manager, self.ids.pop(id)
        out = m.swap_out(id)
        m.close(id)
        self.check()
        if number % 3 == 0:
            self.come(number, ids)
        if number % 3 == 1:
            return m.forget(id)
        n = m.open(id, [*text, 1])
        assert n <= len(text) and (n == len(text) or not out or n % m.size == 0)
        if m.reserve(id, len(text)):
            m.write(id, text, n)
            self.ids[id] = text
        else:
            m.close(id)

    def check(self):
        m, size = self.manager, self.manager.size
        handles = [] if m.prefix is None else [node.handle for node in m.prefix.nodes()]
        counts = [0] * len(m.refs)
        for block in [block for table in m.tables.values() for block in table] + handles:
            counts[block] += 1
        assert counts == m.refs, "owners are counted wrongly"
        assert sorted(m.free) == [block for block, n in enumerate(counts) if n == 0], "leaked or freed twice"
        assert m.cached == set(handles)
        assert m.idle == {block for block in handles if counts[block] == 1}
        for id, ids in self.ids.items():
            assert m.held[id] == len(ids) and len(m.tables[id]) == blocks_for(len(ids), size)
            assert m.read(id) == [tuple(ids[: p + 1]) for p in range(len(ids))], "another's tokens"
        for node in [] if m.prefix is None else m.prefix.nodes():
            path, above = node.key, node.parent
            while above.parent is not None:
                path, above = above.key + path, above.parent
            assert m.pages[node.handle] == [path[: len(path) - size + i + 1] for i in range(size)]
        assert m.saved.keys() == m.away.keys()
        assert m.blocks_away <= m.room_away

    def end(self):
        """All leave, the index forgets: nothing is held."""
        for id in list(self.ids):
            self.manager.close(id)
        self.ids = {}
        if self.manager.prefix is not None:
            assert self.manager.make_free(len(self.manager.refs))
        self.check()
        assert len(self.manager.free) == len(self.manager.refs) and not any(self.manager.refs)


DEEDS = ("come", "come", "grow", "grow", "grow", "go_back", "fork", "keep", "keep", "leave", "give_way")


def play(seed, steps, **options):
    """A crowd after so many random deeds; texts of two letters, so that many begin alike."""
    rng, crowd = random.Random(seed), Crowd(**options)
    for _ in range(steps):
        ids = [rng.randrange(2) for _ in range(rng.randrange(1, 12))]
        getattr(crowd, rng.choice(DEEDS))(rng.randrange(1000), ids)
        crowd.check()
    crowd.end()
    return crowd


@pytest.mark.exercise("BlockManager.drop", "BlockManager.reserve", "BlockManager.open", "BlockManager.keep")
@pytest.mark.parametrize("options", [{}, {"indexed": False}, {"size": 1}, {"blocks": 40, "size": 4}])
def test_random_operations(options):
    """No leak, nothing freed twice, nobody reads what another wrote: 700 operations at random."""
    play(1, 700, **options)


def test_ten_thousand_operations():
    for seed, size in enumerate((1, 2, 3, 4)):
        play(seed, 2_500, blocks=12, size=size)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_operations(seed):
    play(seed, 10_000, blocks=[7, 11, 30][seed % 3], size=1 + seed % 4)


class Machine(RuleBasedStateMachine):
    """The same, and what fails is made small by hypothesis."""

    def __init__(self):
        super().__init__()
        self.crowd = Crowd()

    @rule(deed=st.sampled_from(sorted(set(DEEDS))), number=st.integers(0, 999),
          ids=st.lists(st.integers(0, 1), min_size=1, max_size=9))  # fmt: skip
    def deed(self, deed, number, ids):
        getattr(self.crowd, deed)(number, ids)

    @invariant()
    def holds(self):
        self.crowd.check()

    def teardown(self):
        self.crowd.end()


def machine(examples, steps):
    found = type("Found", (Machine,), {}).TestCase
    found.settings = settings(max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
                              derandomize=True)  # fmt: skip
    return found("runTest")


def test_state_machine():
    machine(40, 50).runTest()


@pytest.mark.slow
def test_state_machine_for_a_hundred_thousand_operations():
    machine(1000, 100).runTest()


# ---- each thing by itself ----


@pytest.mark.exercise("BlockManager.reserve")
def test_a_block_is_given_when_its_first_token_comes():
    m = BlockManager(4, 4)
    m.open("a", [1] * 9)
    for n, blocks in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (16, 4)):
        assert m.reserve("a", n) and len(m.tables["a"]) == blocks
    assert not m.reserve("a", 17) and m.held["a"] == 16
    assert m.reserve("a", 4) and len(m.free) == 3
    assert m.reserve("a", 0) and len(m.free) == 4


@pytest.mark.exercise("BlockManager.reserve", "BlockManager.drop")
def test_fork_copies_only_the_block_that_is_written():
    """Two texts with 10 tokens in common, blocks of 4: two blocks stay shared, the third is copied once."""
    m = Written(8, 4)
    m.open("a", range(10))
    assert m.reserve("a", 10)
    m.write("a", range(10), 0)
    m.fork("a", "b")
    assert m.tables["a"] == m.tables["b"] and m.refs[:3] == [2, 2, 2] and len(m.free) == 5
    assert m.reserve("b", 11)
    assert m.tables["a"][:2] == m.tables["b"][:2] and m.tables["a"][2] != m.tables["b"][2]
    assert m.pages[m.tables["b"][2]][:2] == m.pages[m.tables["a"][2]][:2] and len(m.free) == 4
    table = list(m.tables["a"])
    assert m.reserve("a", 11) and m.tables["a"] == table and len(m.free) == 4  # it has it alone now
    m.close("a")
    assert len(m.free) == 5  # b's two common blocks live on
    m.close("b")
    assert len(m.free) == 8


@pytest.mark.exercise("BlockManager.reserve")
def test_a_fork_at_a_full_block_copies_nothing():
    m = BlockManager(8, 4)
    m.open("a", range(8))
    assert m.reserve("a", 8)
    m.fork("a", "b")
    assert m.reserve("b", 9) and m.reserve("a", 9)
    assert m.tables["a"][:2] == m.tables["b"][:2] and len(m.free) == 4


@pytest.mark.exercise("BlockManager.open", "BlockManager.keep")
def test_a_prefix_is_shared_and_survives_its_writer():
    """What one text began with, the next has for nothing, in the same blocks, also when the first is gone."""
    m, ids = BlockManager(8, 4), list(range(9))
    m.prefix = PrefixIndex(4)
    assert m.open(0, ids) == 0 and m.reserve(0, 9)
    m.keep(0, ids)
    first = list(m.tables[0])
    m.close(0)
    assert len(m.free) == 6 and m.idle == set(first[:2])
    assert m.open(1, ids) == 8 and m.tables[1] == first[:2] and m.held[1] == 8
    assert m.open(2, ids[:8]) == 4  # the last token is always fed: its logits are wanted
    assert m.open(3, [0, 1, 2, 9, 4]) == 0  # no block of it is the same to the last token
    assert not m.idle and m.refs[first[0]] == 3


@pytest.mark.exercise("BlockManager.drop", "BlockManager.keep")
def test_the_index_gives_way():
    """Blocks that the index alone has are room: forgotten when they are needed, and not before."""
    m = BlockManager(4, 2)
    m.prefix = PrefixIndex(2)
    m.open(0, range(8))
    assert m.reserve(0, 8)
    m.keep(0, list(range(8)))
    m.close(0)
    assert not m.free and m.can_admit(9) and not m.can_admit(10)
    assert m.open(1, [7, 7, 7]) == 0 and m.reserve(1, 3)
    assert m.prefix.blocks == 2 and m.open(2, list(range(5))) == 4  # the beginning was kept
    assert not m.reserve(2, 5) and m.prefix.blocks == 2  # a refusal forgets nothing


@pytest.mark.exercise("BlockManager.drop")
def test_what_is_free_cannot_be_given_back():
    m = BlockManager(2, 4)
    m.open(0, [1])
    assert m.reserve(0, 1)
    (block,) = m.tables[0]
    m.close(0)
    with pytest.raises(UserError, match="free already"):
        m.drop([block])


@pytest.mark.exercise("BlockManager.open")
def test_swapped_out_and_in():
    """As many tokens are back as were there; where there is no room for them, none, and nothing is left."""
    m = Written(4, 2, away=2)
    m.open(0, range(5))
    assert m.reserve(0, 5) and not m.swap_out(0)  # three blocks, and there is room for two
    assert m.reserve(0, 4)
    m.write(0, range(4), 0)
    assert m.swap_out(0) and m.blocks_away == 2
    m.close(0)
    m.open(1, range(3))
    assert m.reserve(1, 2) and m.open(0, list(range(5))) == 4
    assert m.read(0) == [tuple(range(p + 1)) for p in range(4)] and not m.away and not m.saved
    assert m.swap_out(0)
    m.close(0)
    assert m.reserve(1, 6) and m.open(0, list(range(5))) == 0 and not m.away and not m.saved


def test_wrong_uses_are_refused():
    for blocks, size in ((0, 4), (4, 0)):
        with pytest.raises(UserError, match="at least one of each"):
            BlockManager(blocks, size)
    m = BlockManager(4, 4)
    m.open(0, [1])
    for wrong, why in ((lambda: m.open(0, [1]), "open already"), (lambda: m.reserve(1, 1), "not open"),
                       (lambda: m.close(1), "not open"), (lambda: m.fork(1, 2), "not open"),
                       (lambda: m.fork(0, 0), "open already"), (lambda: BlockManager(1, 1, away=-1), "room"),
                       (lambda: setattr(m, "prefix", PrefixIndex(8)), "alike")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            wrong()


def test_arithmetic():
    """By hand: three texts in rooms of 8, in blocks of 4; a hundred with 200 of 1,000 tokens in common."""
    assert reserved_waste([1, 4, 5], 8) == pytest.approx(14 / 24)
    assert paged_waste([1, 4, 5], 4) == pytest.approx(6 / 16)
    assert paged_waste(range(1, 17), 16) == pytest.approx(expected_waste(8.5, 16))
    assert expected_waste(512, 16) == pytest.approx(0.0144, abs=1e-4)
    assert shared_savings(100, 200, 1000) == pytest.approx(0.198)
    assert shared_savings(100, 200, 1000, size=8) == pytest.approx(0.198)
    assert shared_savings(100, 200, 1000, size=16) == pytest.approx(1 - (12 + 100 * 51) / 6300)
    assert shared_savings(50, 100, 1000) == pytest.approx(0.098) and shared_savings(1, 200, 1000) == 0


def test_savings_are_what_the_blocks_say():
    """A hundred tables with a common beginning, counted in blocks."""
    m = BlockManager(100 * 125, 8)
    m.prefix = PrefixIndex(8)
    for i in range(100):
        ids = [*range(200), *range(1000 * (i + 1), 1000 * (i + 1) + 800)]
        m.open(i, ids)
        assert m.reserve(i, 1000)
        m.keep(i, ids)
    assert 1 - (len(m.refs) - len(m.free)) / (100 * 125) == pytest.approx(0.198)
    assert sum(len(ids) == 100 for ids in m.owners()) == 25


def test_picture():
    m = BlockManager(4, 4)
    m.prefix = PrefixIndex(4)
    m.open(7, range(6))
    assert m.reserve(7, 6)
    m.keep(7, list(range(6)))
    assert m.picture() == [(7, 4, 4), (7, 2, 4), (None, 0, 4), (None, 0, 4)] and m.owners()[:2] == [[7], [7]]
    m.close(7)
    assert m.picture()[0] == (None, 4, 4) and m.picture()[1] == (None, 0, 4)
