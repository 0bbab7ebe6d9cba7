"""The engine on pages, for long: whatever comes in whatever order, each answer is the contiguous engine's."""

import random
from collections import Counter

import pytest

from common.errors import UserError
from common.generate import Sampling
from common.model import attend, set_attend
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore
from phase04_advanced_inference.project13_paged_attention._lab import blank
from phase04_advanced_inference.project13_paged_attention.paged_attention import build_engine

CONTEXT, SIZE = 40, 4


class Traffic:
    """An engine on too few blocks, and what was asked of it. `play` does one thing at random; `check` says
    what must hold between any two."""

    def __init__(self, model, seed, **options):
        self.rng, self.model, self.did = random.Random(seed), model, Counter()
        self.made = build_engine(model, size=SIZE, max_batch=6, max_step_tokens=14, **options)
        self.store, self.asked, self.new, self.ended = self.made.store, {}, {}, {}
        self.memory = [x.data_ptr() for pool in self.store.pools for x in pool]

    def sampling(self, room):
        rng = self.rng
        return Sampling(max_tokens=rng.randint(1, min(room, 14)), temperature=rng.choice([0, 0, 1.5]),
                        seed=rng.getrandbits(32))  # fmt: skip

    def come(self):
        """A request; most begin as others do, some with nothing that another has."""
        rng = self.rng
        ids = [(rng.randrange(2) + i) % 32 if rng.random() < 0.04 else i for i in range(rng.randint(1, 22))]
        ids = ids if rng.random() < 0.7 else [rng.randrange(32) for _ in ids]
        sampling = self.sampling(14)
        self.asked[self.made.add(ids, sampling, priority=rng.choice([0, 0, 3]))] = ids, sampling

    def fork(self):
        id = self.anyone()
        text = list(self.made.sequences[id].ids)
        if len(text) < CONTEXT - 2:
            sampling = self.sampling(CONTEXT - len(text))
            self.asked[self.made.fork(id, sampling)] = text, sampling

    def cancel(self):
        id = self.anyone()
        assert self.made.cancel(id) and not self.made.cancel(id)

    def ask_wrongly(self):
        for wrong in ([], [32], [1] * (CONTEXT + 1)):
            with pytest.raises(UserError):
                self.made.add(wrong)

    def step(self):
        for event in self.made.step():
            self.new.setdefault(event.id, []).extend(event.ids)
            if event.finish:
                assert event.id not in self.ended, "ended twice"
                self.ended[event.id] = event.finish

    def anyone(self):
        return self.rng.choice(sorted(self.made.sequences))

    def play(self):
        busy, waiting = self.made.sequences, len(self.made.sequences)
        deed = self.rng.choices(["step", "come", "fork", "cancel", "ask_wrongly"],
                                [60, 22 if waiting < 12 else 4, 5 * bool(busy), 5 * bool(busy), 1])[0]
        getattr(self, deed)()
        self.did[deed] += 1

    def check(self):
        """Every owner is counted, nothing is lost, and who shares a block has the same text up to its end."""
        store, running = self.store, self.made.scheduler.running
        assert store.tables.keys() == store.held.keys() == running.keys()
        counts = Counter(block for table in store.tables.values() for block in table)
        counts.update(store.cached)
        assert [counts[block] for block in range(len(store.refs))] == store.refs, "owners are counted wrongly"
        unowned = [block for block, n in enumerate(store.refs) if n == 0]
        assert sorted(store.free) == unowned, "a block is lost, or free twice"
        written = {}
        for id, table in store.tables.items():
            fed = self.made.sequences[id].ids[: running[id].computed]
            for i, block in enumerate(table):
                text = tuple(fed[: (i + 1) * SIZE])
                other = written.setdefault(block, text)
                assert other[: len(text)] == text[: len(other)], "a block of two different texts"
        assert store.away.keys() == store.saved.keys() <= self.made.sequences.keys()
        assert store.blocks_away <= store.room_away
        self.did.update(shared=max(store.refs) > 1, swapped=bool(store.away), kept=bool(store.idle))

    def end(self):
        """All requests come to their end; nothing is held, and no more memory is used than at the start."""
        while self.made.busy:
            self.step()
        self.check()
        store = self.store
        assert not store.tables and not store.away and len(store.free) + len(store.idle) == len(store.refs)
        assert not self.made.sequences and not self.made.mail and not self.made.late
        assert not self.made.scheduler.waiting.sequences
        assert [x.data_ptr() for pool in store.pools for x in pool] == self.memory
        assert store.make_free(len(store.refs)) and not any(store.refs), "the index held on to a block"

    def judge(self):
        """Each answer is what project 12's engine has in slots of the longest length; a cancelled one as far
        as it came."""
        set_attend(self.model, attend)
        slots = Engine(self.model, SlotStore(self.model, 16, CONTEXT), max_batch=16, max_step_tokens=64)
        truth = slots.generate(*zip(*self.asked.values(), strict=True))
        assert self.ended.keys() == self.asked.keys()
        for (id, finish), answer in zip(sorted(self.ended.items()), truth, strict=True):
            mine = tuple(self.new[id])
            assert mine == answer.ids[: len(mine)], f"request {id} is not what it is in slots"
            assert finish == "cancelled" or (finish, len(mine)) == (answer.finish, len(answer.ids))


KINDS = {"prefix": {"blocks": 14, "prefix": True}, "swapped": {"blocks": 16, "away": 9}}


def soak(kind, turns, seed):
    traffic = Traffic(blank(vocab_size=32, context=CONTEXT, lively=True), seed, **KINDS[kind])
    for _ in range(turns):
        traffic.play()
        traffic.check()
    traffic.end()
    traffic.judge()
    did, stats = traffic.did, traffic.made.stats()
    assert min(did[deed] for deed in ("step", "come", "fork", "cancel", "ask_wrongly", "shared")) > 0
    assert stats["preemptions"] > turns / 150 and stats["finished"]["length"] > turns / 20
    assert did["kept"] if kind == "prefix" else did["swapped"]


@pytest.mark.parametrize("kind", KINDS)
def test_soak(kind):
    """300 random operations each: requests that come, fork, end or are cancelled, while memory is short."""
    soak(kind, 300, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_long_soak(kind, seed):
    soak(kind, 3_000, seed)
