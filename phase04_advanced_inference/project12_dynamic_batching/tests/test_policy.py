"""The policy, without a model: the heap, fair shares, urgency, room, and that nobody starves."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phase04_advanced_inference.project12_dynamic_batching.batching import batches
from phase04_advanced_inference.project12_dynamic_batching.heap import IndexedHeap, SortedList
from phase04_advanced_inference.project12_dynamic_batching.scheduler import (
    PATIENCE,
    Scheduler,
    Waiting,
    due_at,
)
from phase04_advanced_inference.project12_dynamic_batching.sequence import Sequence


class Memory:
    """A store of so many tokens and no tensors."""

    def __init__(self, tokens):
        self.tokens, self.held = tokens, {}

    def can_admit(self, n):
        return sum(self.held.values()) + n - 1 <= self.tokens

    def open(self, id, ids):
        assert id not in self.held
        self.held[id] = 0
        return 0

    def reserve(self, id, n):
        if sum(self.held.values()) - self.held[id] + n > self.tokens:
            return False
        self.held[id] = max(n, self.held[id])
        return True

    def close(self, id):
        del self.held[id]


def scheduler(tokens=1000, max_batch=3, max_step_tokens=8):
    return Scheduler(Memory(tokens), max_batch=max_batch, max_step_tokens=max_step_tokens)


def sequence(id, n=1, due=0.0, tenant=""):
    return Sequence(id, [1] * n, None, None, due=due, tenant=tenant)


def ran(made):
    """One step without a model: everybody who was fed all of it gets a token."""
    work = made.plan()
    for one, n in work:
        if one.advance(n):
            one.ids.append(1)
    return [(one.id, n) for one, n in work]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(0, 5)), max_size=60))
@settings(max_examples=60, deadline=None)
@pytest.mark.exercise("IndexedHeap.remove")
def test_matches_a_sorted_list(operations):
    heap, naive = IndexedHeap(), SortedList()
    for is_push, item, key in operations:
        if is_push:
            heap.push(item, key), naive.push(item, key)
        else:
            assert heap.remove(item) == naive.remove(item)
        assert len(heap) == len(naive) and heap.peek() == naive.peek()
        assert all(heap.entries[place][1] == item for item, place in heap.place.items())
        assert all(heap.entries[(i - 1) // 2] <= heap.entries[i] for i in range(1, len(heap)))


@pytest.mark.exercise("IndexedHeap.remove")
def test_what_takes_the_free_place_may_have_to_rise():
    heap = IndexedHeap()
    for item, key in enumerate([0, 10, 1, 11, 12, 2, 3]):
        heap.push(item, key)
    assert heap.remove(3) and not heap.remove(3)
    assert [key for key, _ in heap.entries] == [0, 3, 1, 10, 12, 2]  # 3 rose past 10
    assert heap.place == {item: place for place, (_, item) in enumerate(heap.entries)}
    pair = IndexedHeap()
    pair.push("first", 1)
    pair.push("second", 2)
    assert pair.remove("first") and pair.place == {"second": 0} and pair.remove("second") and not pair


@pytest.mark.exercise("Waiting.peek")
def test_tenants_take_turns_by_tokens():
    """One tenant with a hundred requests does not delay another's first."""
    made = scheduler(max_batch=1, max_step_tokens=4)
    for id in range(6):
        made.add(sequence(id, tenant="many"))
    assert ran(made) == [(0, 1)]
    made.add(sequence(9, tenant="one", due=1e9))
    made.finish(made.running[0])
    assert ran(made) in ([(9, 1)], [(1, 1)])
    made.finish(next(iter(made.running.values())))
    assert {id for id, _ in ran(made)} <= {1, 9}
    assert made.waiting.served["one"] == 2 and made.waiting.peek().tenant == "many"


@pytest.mark.exercise("Waiting.peek")
def test_the_urgent_go_first_and_zero_is_an_id():
    waiting = Waiting()
    for id, due in ((0, 1.0), (1, 0.5), (2, 3.0)):
        waiting.push(sequence(id, due=due))
    order = []
    while (one := waiting.peek()) is not None:
        order.append(one.id)
        assert waiting.remove(one)
    assert order == [1, 0, 2] and len(waiting) == 0
    waiting.served.update(a=5.0, b=2.0)
    waiting.push(sequence(3, due=0.0, tenant="a"), {"a", "b"})
    waiting.push(sequence(4, due=9.0, tenant="b"), {"a", "b"})
    assert waiting.peek().id == 4  # b had less


def test_everybody_becomes_due():
    """A steady stream of important requests passes an unimportant one only for a while."""
    low = due_at(0.0, priority=0)
    assert due_at(1.0, priority=1) < low < due_at(PATIENCE + 1, priority=1)
    assert due_at(0.0, deadline=5) < low and due_at(5.0, deadline=1) > due_at(0.0, deadline=5)


@pytest.mark.exercise("Scheduler.plan")
def test_writers_come_before_readers_and_the_budget_holds():
    made = scheduler()
    made.add(sequence(0, 2)), made.add(sequence(1, 20))
    assert ran(made) == [(0, 2), (1, 6)]
    assert ran(made) == [(0, 1), (1, 7)]
    made.add(sequence(2, 3))
    assert ran(made) == [(0, 1), (1, 7)]  # 20 read: from now on both write
    assert ran(made) == [(0, 1), (1, 1), (2, 3)]
    made.add(sequence(3, 1))
    assert ran(made) == [(0, 1), (1, 1), (2, 1)]  # three run at most
    assert made.waiting.served[""] == 8 + 8 + 8 + 5 + 3


@pytest.mark.exercise("Scheduler.plan")
def test_guesses_leave_room_for_the_others():
    made = scheduler(max_batch=3, max_step_tokens=5)
    for id in range(3):
        made.add(sequence(id))
    ran(made)
    for one in made.running.values():
        one.guesses = [1, 1, 1, 1]
    work = made.plan()
    assert [(one.id, n, len(one.guesses)) for one, n in work] == [(0, 3, 2), (1, 1, 0), (2, 1, 0)]


@pytest.mark.exercise("Scheduler.make_room")
def test_the_least_urgent_gives_way():
    made = scheduler(tokens=8)
    for id, due in ((0, 2.0), (1, 1.0), (2, 3.0)):
        made.add(sequence(id, 2, due))
    ran(made), ran(made)
    first = made.running[1]
    assert made.make_room(first, 1, set()) and set(made.running) == {0, 1}
    assert made.preemptions == 1 and made.waiting.peek().id == 2 and made.waiting.peek().computed == 0
    assert made.store.held.keys() == {0, 1}
    assert not made.make_room(first, 5, {0}) and set(made.running) == {0, 1}  # 0 has its place already
    assert made.make_room(first, 5, set()) and set(made.running) == {1}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.exercise("Scheduler.plan", "Scheduler.make_room")
def test_nobody_starves(seed):
    """Whatever the memory and the mix, everybody ends; no step feeds too much, nor too many at once."""
    rng = random.Random(seed)
    made, wanted = scheduler(rng.randrange(24, 60), rng.randrange(1, 5), rng.randrange(5, 9)), {}
    for id in range(25):
        n, wanted[id] = rng.randrange(1, 12), rng.randrange(1, 12)
        made.add(sequence(id, n, rng.choice([0.0, 1.0, 5.0]), rng.choice("abc")))
    known = dict(made.waiting.sequences)
    for _ in range(2000):
        work = ran(made)
        assert 0 < sum(n for _, n in work) <= made.max_step_tokens
        assert len({id for id, _ in work}) == len(work)
        assert len(made.running) <= made.max_batch and sum(made.store.held.values()) <= made.store.tokens
        for one in list(made.running.values()):
            if one.n_new >= wanted[one.id]:
                assert made.finish(one)
        if not made.running and not made.waiting:
            break
    assert all(known[id].n_new == n for id, n in wanted.items()) and not made.store.held


@pytest.mark.exercise("Sequence.accept")
def test_what_was_kept_is_what_is_true():
    class Row:
        def push(self, id, logprob):
            return type("Piece", (), {"id": id, "finish": "stop" if id == 0 else None})

    cases = (([7], [7], 3, None), ([7, 8], [7, 8], 4, None), ([7, 8, 9], [7, 8, 9], 5, None),
             ([7, 0, 9], [7, 0], 4, "stop"))  # fmt: skip
    for ids, kept, computed, finish in cases:
        one = Sequence(0, [1, 2, 3], None, Row())
        one.guesses = [7, 8]
        assert not one.advance(4) and one.advance(1)
        pieces, why = one.accept(ids, [None] * len(ids))
        assert one.new == kept == [piece.id for piece in pieces] and why == finish
        assert one.computed == computed and one.guesses == [] and one.pending == 1


def test_batches_wait_for_the_full_or_the_oldest():
    def seconds(members):
        return 2.0

    assert batches([0, 1, 5, 6], 2, float("inf"), seconds) == [(1, 3), (1, 3), (6, 8), (6, 8)]
    assert batches([0, 1, 5, 6], 4, 0.5, seconds) == [(0.5, 2.5), (2.5, 4.5), (5.5, 7.5), (7.5, 9.5)]
