"""The owner of the engine: what it collects, tells, and leaves behind; and the same tokens as alone."""

import asyncio
import queue
import threading
import time

import pytest

from common.generate import Sampling
from common.trial import model_folder
from phase04_advanced_inference.project12_dynamic_batching.sequence import Event
from phase10_deployment.project28_serving import _trial
from phase10_deployment.project28_serving.engine_loop import EngineDown, EngineLoop, Order, one_at_a_time

SIZES = {"loud": 8, "max_seq_len": 64, "n_layer": 1, "d_model": 16, "d_ff": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model") / "m", **SIZES)


class Stub:
    """An engine that does as it is told."""

    def __init__(self, busy=False, told=()):
        self.busy, self.told, self.steps, self.begun, self.cancelled = busy, list(told), 0, [], []

    def step(self):
        self.steps += 1
        self.busy = False
        return self.told

    def begin(self, ids, sampling, *, tenant, guide):
        self.begun.append(ids)
        self.busy = True
        return len(self.begun) - 1

    def cancel(self, id):
        self.cancelled.append(id)
        return True


class Caught(EngineLoop):
    """Keeps what it would send."""

    def send(self, letters):
        self.letters = [*getattr(self, "letters", []), letters]


# ---- the inbox ----


class Inbox(queue.SimpleQueue):
    """Whoever waits at it gets, at once, what comes `later`; where nothing does, he would wait for ever."""

    waited, later = 0, ()

    def get(self, block=True, timeout=None):
        if self.empty() and block:
            self.waited += 1
            assert self.later, "waited for an order that nobody sent"
            for order in self.later:
                self.put(order)
        return super().get(block, timeout)


def collecting(busy, there=(), later=()):
    """What `collect` gives where these orders lie in the inbox, and how often it waited."""
    loop = EngineLoop(Stub(busy=busy))
    loop.inbox = Inbox()
    loop.inbox.later = later
    for order in there:
        loop.inbox.put(order)
    return loop.collect(), loop.inbox.waited


@pytest.mark.exercise("EngineLoop.collect")
def test_a_busy_owner_takes_all_that_is_there_and_waits_for_nothing():
    orders = [Order(None, None) for _ in range(5)]
    assert collecting(True, orders) == (orders, 0)
    assert collecting(True) == ([], 0)


@pytest.mark.exercise("EngineLoop.collect")
def test_an_idle_owner_waits_and_takes_along_what_lies_behind():
    """No turn while there is nothing to do; and when something comes, all of it, in order."""
    orders = [Order(None, None) for _ in range(3)]
    assert collecting(False, later=orders) == (orders, 1)
    assert collecting(False, orders) == (orders, 0)


def test_who_comes_before_a_turn_takes_part_in_its_step():
    """Three requests that lie in the inbox are begun before the one step of the turn."""
    engine = Stub()
    loop = Caught(engine)

    async def put():
        for i in range(3):
            loop.submit([i], None)

    asyncio.run(put())
    loop.turn()
    assert engine.begun == [[0], [1], [2]] and engine.steps == 1 and set(loop.tickets) == {0, 1, 2}


# ---- what is told ----


@pytest.mark.exercise("EngineLoop.tell")
def test_a_step_is_told_in_one_message():
    """However many texts grew; who has ended is forgotten, and who is not waited for is dropped."""
    loop = Caught(Stub())
    loop.tickets = {i: f"ticket {i}" for i in range(3)}
    events = [Event(2, (5,)), Event(0, (6,), finish="stop"), Event(9, (7,)), Event(1, finish="cancelled")]
    loop.tell(events)
    assert loop.letters == [[("ticket 2", events[0]), ("ticket 0", events[1]), ("ticket 1", events[3])]]
    assert loop.tickets == {2: "ticket 2"}


@pytest.mark.exercise("EngineLoop.tell")
def test_a_text_that_goes_on_is_told_again():
    loop = Caught(Stub())
    loop.tickets = {0: "ticket"}
    for id in (5, 6):
        loop.tell([Event(0, (id,))])
    assert [letters[0][1].ids for letters in loop.letters] == [(5,), (6,)] and loop.tickets


# ---- with a real engine ----


def asked(n=9):
    """(ids, Sampling) of different lengths, greedy and drawn."""
    return [([*range(3 + i, 6 + 3 * i)], Sampling(max_tokens=3 + 2 * i, temperature=0.9 * (i % 2), seed=i))
            for i in range(n)]  # fmt: skip


async def answers(loop, requests, read=lambda ticket: ticket.news()):
    async def one(ids, sampling):
        ticket, events = loop.submit(ids, sampling), []
        while not ticket.done or ticket.mail:
            events += await read(ticket)
        return tuple(id for event in events for id in event.ids), "".join(event.text for event in events)

    return await asyncio.gather(*[one(*request) for request in requests])


@pytest.mark.parametrize("switches", [{}, {"paged": False}, {"prefix_cache": False, "speculative": "ngram"}])
def test_matches_one_at_a_time(folder, switches):
    """In float64 every request gets the ids and the text that it gets alone, whatever the mix."""
    want = one_at_a_time(_trial.engine_of(folder, double=True), asked())
    loop = EngineLoop(_trial.engine_of(folder, double=True, **switches)).start()
    try:
        got = asyncio.run(asyncio.wait_for(answers(loop, asked()), 120))
    finally:
        loop.stop()
    assert got == [(answer.ids, answer.text) for answer in want]
    assert loop.engine.counts["steps"] < sum(len(answer.ids) for answer in want), "nobody shared a step"


def test_a_slow_reader_gets_all_in_one_piece_and_holds_nobody_up(folder):
    loop = EngineLoop(_trial.engine_of(folder)).start()

    async def slowly():
        slow = loop.submit([1, 2, 3], Sampling(max_tokens=12, temperature=0, ignore_eos=True))
        await answers(loop, asked(3))
        while not slow.done:
            await asyncio.sleep(0.01)
        return await slow.news()

    try:
        events = asyncio.run(asyncio.wait_for(slowly(), 120))
    finally:
        loop.stop()
    assert sum(len(event.ids) for event in events) == 12 and events[-1].finish == "length"


def test_whoever_leaves_frees_its_room(folder):
    """Cancelled before it began, in the queue, and in the middle; nothing of it stays."""
    loop = EngineLoop(_trial.engine_of(folder, max_batch=2, prefix_cache=False)).start()

    async def leave():
        tickets = [loop.submit([1 + i, 2], Sampling(max_tokens=50, ignore_eos=True)) for i in range(6)]
        await tickets[0].news()
        for ticket in tickets:
            loop.cancel(ticket)
        while not all(ticket.done for ticket in tickets):
            await asyncio.sleep(0.005)
        late = loop.submit([1], Sampling(max_tokens=60, ignore_eos=True), seconds=0.0)
        while not late.done:
            await late.news()
        return late.late, await loop.call(lambda engine: engine.used()), dict(loop.tickets)

    try:
        late, used, tickets = asyncio.run(asyncio.wait_for(leave(), 120))
        store = loop.engine.store
    finally:
        loop.stop()
    assert used == 0 and not tickets and not loop.engine.busy
    assert not store.tables and not store.spaces and not store.known and late


def test_all_can_be_cut_at_once(folder):
    """As if the time of each were up: what runs and what waits ends, what there is of it stands."""
    loop = EngineLoop(_trial.engine_of(folder, max_batch=2)).start()

    async def cut():
        tickets = [loop.submit([1 + i, 2], Sampling(max_tokens=60, ignore_eos=True)) for i in range(4)]
        await tickets[0].news()
        loop.cut()
        while not all(ticket.done for ticket in tickets):
            await asyncio.sleep(0.005)
        return [(ticket.late, ticket.mail[-1].finish) for ticket in tickets]

    try:
        assert asyncio.run(asyncio.wait_for(cut(), 120)) == [(True, "cancelled")] * 4
    finally:
        loop.stop()
    assert loop.engine.used() == 0


def test_a_step_that_fails_is_told_to_all_and_the_door_is_shut(folder):
    """No request is left without an answer, whether it ran, waited, or came later."""
    engine = _trial.engine_of(folder)
    loop = EngineLoop(engine)

    def broken():
        raise RuntimeError("out of memory")

    async def fail():
        ticket = loop.submit([1, 2], Sampling(max_tokens=5))
        engine.step = broken
        loop.start()
        (event,) = await ticket.news()
        for _ in range(500):
            if not loop.alive:
                break
            await asyncio.sleep(0.01)
        with pytest.raises(EngineDown, match="out of memory"):
            loop.submit([1], Sampling())
        with pytest.raises(EngineDown):
            await loop.call(lambda engine: 1)
        return event

    event = asyncio.run(asyncio.wait_for(fail(), 120))
    assert event.finish == "error" and "out of memory" in event.error


def test_another_engine_takes_over_when_the_first_has_nothing_left(folder):
    """Who runs is served by the old one, who comes meanwhile by the new one."""
    old, new = _trial.engine_of(folder), _trial.engine_of(folder, paged=False)
    loop = EngineLoop(old).start()

    async def swap():
        first = loop.submit([1, 2], Sampling(max_tokens=20, ignore_eos=True))
        await first.news()
        swapping = asyncio.ensure_future(loop.replace(new))
        await asyncio.sleep(0)
        second = loop.submit([3, 4], Sampling(max_tokens=3, ignore_eos=True))
        for ticket in (first, second):
            while not ticket.done:
                await ticket.news()
        await swapping
        return first.n_new, second.n_new

    try:
        assert asyncio.run(asyncio.wait_for(swap(), 120)) == (20, 3)
    finally:
        loop.stop()
    assert loop.engine is new and old.counts["drawn"] >= 20 and new.counts["drawn"] <= 3


def test_what_is_called_runs_in_the_owners_thread(folder):
    loop = EngineLoop(_trial.engine_of(folder)).start()

    async def look():
        with pytest.raises(KeyError):
            await loop.call(lambda engine: {}["nothing"])
        return await loop.call(lambda engine: threading.current_thread().name)

    try:
        assert asyncio.run(look()) == "engine" and threading.current_thread().name != "engine"
    finally:
        loop.stop()


@pytest.mark.slow
def test_ten_thousand_that_leave(folder):
    """No block is lost after 10,000 requests that are cut off somewhere."""
    loop = EngineLoop(_trial.engine_of(folder, max_batch=16)).start()

    async def crowd():
        for i in range(625):
            tickets = [loop.submit([1 + (i * j) % 200, 2, 3] * 4, Sampling(max_tokens=30)) for j in range(16)]
            await asyncio.sleep(0.001 * (i % 7))
            for ticket in tickets:
                loop.cancel(ticket)
        until = time.monotonic() + 30
        while loop.tickets and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return await loop.call(lambda engine: engine.used())

    try:
        assert asyncio.run(crowd()) == 0
    finally:
        loop.stop()
    store = loop.engine.store
    assert not store.tables and sum(store.refs) == len(store.cached) == store.prefix.blocks
