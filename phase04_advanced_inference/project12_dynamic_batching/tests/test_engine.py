"""The engine: every request's tokens are those of its solo decode, whoever shares the batch."""

import math
import random
import time

import pytest
import torch

from common.errors import UserError
from common.generate import Sampling, generate
from common.testing import check_cache, trained
from common.tokenizer import CharTokenizer
from phase04_advanced_inference.project12_dynamic_batching import engine as engine_file
from phase04_advanced_inference.project12_dynamic_batching.batching import bound, continuous_steps, static
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore
from phase04_advanced_inference.project12_dynamic_batching.sequence import Sequence
from phase04_advanced_inference.project12_dynamic_batching.slots import SlotCache
from phase04_advanced_inference.project12_dynamic_batching.step import forwards, ragged

MODEL = trained()


class Clock:
    """Seconds, until it was asked too often: an engine in which requests throw each other out for ever."""

    def __init__(self):
        self.asked = 0

    def __call__(self):
        self.asked += 1
        assert self.asked < 20_000, "still busy after thousands of steps"
        return time.perf_counter()


def engine(slots=3, *, budget=None, max_batch=3, max_step_tokens=7, size=64, **options):
    store = SlotStore(MODEL, slots, size, budget=budget)
    options = {"max_batch": max_batch, "max_step_tokens": max_step_tokens, "clock": Clock(), **options}
    return Engine(MODEL, store, **options)


def request(rng):
    start, stride, n = rng.randrange(32), rng.randrange(1, 5), rng.randrange(1, 24)
    sampling = Sampling(max_tokens=rng.randrange(1, 25), temperature=rng.choice([0, 0, 1.5]),
                        seed=rng.getrandbits(32), repetition_penalty=rng.choice([1.0, 1.0, 1.3]),
                        logprobs=rng.choice([0, 0, 2]))  # fmt: skip
    return [(start + stride * i) % 32 for i in range(n)], sampling


def solo(ids, sampling, **options):
    [answer] = generate(MODEL, [ids], sampling, **options)
    return answer


def drain(made):
    """Every event until nothing is left to do, by request."""
    events = {}
    for _ in range(5000):
        if not made.busy:
            return events
        for event in made.step():
            events.setdefault(event.id, []).append(event)
    raise AssertionError("still busy after 5,000 steps")


def ids_of(events):
    return tuple(id for event in events for id in event.ids)


def empty(made):
    return all(owner is None for owner, _, _ in made.store.picture()) and not made.scheduler.waiting


@pytest.mark.parametrize("budget", [None, 48])
@pytest.mark.exercise("Scheduler.plan", "Scheduler.make_room", "SlotCache.update")
@pytest.mark.exercise("ragged", "Sequence.accept")
def test_matches_solo_decode(budget):
    """Greedy, drawn, penalised; with chunks, more requests than slots, and (budget) preemptions."""
    rng, made = random.Random(1), engine(budget=budget)
    requests = [request(rng) for _ in range(14)]
    answers = made.generate([ids for ids, _ in requests], [sampling for _, sampling in requests])
    for (ids, sampling), got in zip(requests, answers, strict=True):
        want = solo(ids, sampling)
        assert (got.ids, got.finish) == (want.ids, want.finish)
        assert [entry.id for entry in got.logprobs] == [entry.id for entry in want.logprobs]
        assert all(a.logprob == pytest.approx(b.logprob, abs=1e-5)
                   for a, b in zip(got.logprobs, want.logprobs, strict=True))  # fmt: skip
    assert empty(made) and bool(made.stats()["preemptions"]) == (budget is not None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.exercise("Scheduler.plan", "Scheduler.make_room")
def test_nobody_is_lost(seed):
    """Random arrivals, cancellations, priorities, tenants and budgets: each ends once, and right."""
    rng = random.Random(seed)
    budget = rng.choice([None, 50, 90])
    made = engine(rng.randrange(1, 4), budget=budget, max_step_tokens=rng.randrange(3, 12))
    asked, events, cancelled = {}, {}, set()
    for _ in range(60):
        if rng.random() < 0.4:
            ids, sampling = request(rng)
            asked[made.add(ids, sampling, priority=rng.randrange(3), tenant=rng.choice("ab"),
                           deadline=rng.choice([None, 1.0]))] = ids, sampling  # fmt: skip
        if asked and rng.random() < 0.1:
            victim = rng.choice(sorted(asked))
            cancelled |= {victim} if made.cancel(victim) else set()
        for event in made.step():
            events.setdefault(event.id, []).append(event)
        held = sum(n for _, n, _ in made.store.picture())
        assert held <= made.store.budget
    for id, more in drain(made).items():
        events.setdefault(id, []).extend(more)
    assert events.keys() == asked.keys() and empty(made)
    for id, (ids, sampling) in asked.items():
        assert [event.finish is not None for event in events[id]].count(True) == 1 and events[id][-1].finish
        want = solo(ids, sampling).ids
        got = ids_of(events[id])
        assert got == want[: len(got)] and (id in cancelled or got == want)


def test_is_on(monkeypatch):
    """Requests really share forwards, and their keys and values really come from the slots."""
    made, rows = engine(), []
    forward = MODEL.hidden

    def watched(tokens, **where):
        rows.append(tokens.shape)
        return forward(tokens, **where)

    monkeypatch.setattr(MODEL, "hidden", watched)
    made.generate([[1, 2], [3, 4, 5], [6]], Sampling(max_tokens=6, temperature=0))
    assert max(shape[0] for shape in rows) == 3 and len(rows) < 3 * 6
    assert all(T <= 7 for _, T in rows)

    def broken(self, k, v, positions):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(SlotCache, "update", broken)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        engine().generate([[1, 2], [3, 4, 5]], Sampling(max_tokens=6, temperature=0))


def test_long_prompts_stop_nobody():
    """While a prompt is read in chunks, a text that is being written gets its token in every step."""
    made = engine(max_step_tokens=4)
    writer = made.add([1, 2], Sampling(max_tokens=20, temperature=0))
    made.step()
    made.add(list(range(30)), Sampling(max_tokens=2, temperature=0))
    assert all([event.id for event in made.step()].count(writer) == 1 for _ in range(8))


def test_streams_take_turns_and_lose_nothing():
    """A stream read to its end; one given up, whose rest comes from `step`; and a request nobody streams."""
    made, sampling = engine(), Sampling(max_tokens=5, temperature=0)
    first, second, third = (made.add(ids, sampling) for ids in ([1, 2], [3, 5], [7, 8, 9]))
    assert first == 0  # an id that is false
    early = made.step()
    given_up = made.stream(second)
    head = next(given_up)
    got = list(made.stream(first))
    given_up.close()
    late = [e for events in drain(made).values() for e in events]
    rest = early + late
    assert got[-1].finish == "length" and ids_of(got) == solo([1, 2], sampling).ids
    assert ids_of([e for e in rest if e.id == third]) == solo([7, 8, 9], sampling).ids
    assert head.ids + ids_of([e for e in late if e.id == second]) == solo([3, 5], sampling).ids
    with pytest.raises(UserError, match="no request 0"):
        made.stream(first)


def test_bad_requests_have_results_and_lose_nobody():
    made = engine()
    good = made.add([1, 2, 3], Sampling(max_tokens=9, temperature=0))
    for ids, why in (([], "empty"), ([99], "not among"), ([-1], "not among"), ([1] * 65, "room for 64"),
                     (["x"], "row of ids"), (5, "row of ids")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            made.add(ids)
    for wrong in ({"max_tokens": 0}, {"max_tokens": -3}, {"temperature": math.nan}):
        with pytest.raises(UserError):
            made.add([1], Sampling(**wrong))
    for wrong in ({"priority": math.nan}, {"deadline": math.inf}):
        with pytest.raises(UserError, match="finite"):
            made.add([1], **wrong)
    with pytest.raises(UserError, match="pass the tokenizer"):
        made.add([1], Sampling(stop=("x",)))
    other = made.add([4, 5], Sampling(max_tokens=9, temperature=0))
    assert not made.cancel(77) and made.cancel(other) and not made.cancel(other)
    events = drain(made)
    assert events[other][-1].finish == "cancelled" and events.keys() == {good, other}
    assert ids_of(events[good]) == solo([1, 2, 3], Sampling(max_tokens=9, temperature=0)).ids
    with pytest.raises(UserError, match="below max_batch"):
        engine(max_batch=9, max_step_tokens=4)


def test_the_end_of_the_context_is_an_end():
    """A prompt as long as the context has one answer; the last token drawn is never fed."""
    [answer] = engine().generate([[1] * 64], Sampling(max_tokens=9, temperature=0))
    assert len(answer.ids) == 1 and answer.finish == "length"
    [answer] = engine(budget=10).generate([[1] * 8], Sampling(max_tokens=9, temperature=0))
    assert len(answer.ids) == 3


def test_stop_texts_and_ends():
    words = CharTokenizer.train("abcdefghijklmnopqrstuvwxyz012345")
    made = engine(tokenizer=words, eos_ids=())
    prompt = [1, 2, 3, 4]
    whole = solo(prompt, Sampling(max_tokens=20, temperature=0), tokenizer=words, eos_ids=())
    sampling = Sampling(max_tokens=20, temperature=0, stop=(whole.text[3:5],))
    want = solo(prompt, sampling, tokenizer=words, eos_ids=())
    [got] = made.generate([prompt], sampling)
    assert (got.text, got.ids, got.finish) == (want.text, want.ids, "stop")
    [got] = engine(eos_ids=(whole.ids[2],)).generate([prompt], Sampling(max_tokens=20, temperature=0))
    assert got.ids == whole.ids[:3] and got.finish == "stop"


def test_one_poisoned_request_ends_alone(monkeypatch):
    """NaN in one row's logits is that request's error; the slot it leaves behind is clean."""
    made, forward = engine(slots=2), MODEL.hidden

    def poisoned(tokens, **where):
        x = forward(tokens, **where)
        for cache in where["caches"]:
            for row, slot in enumerate(cache.rows):
                if tokens[row, 0] == 31:
                    cache.v[slot, :, :1], x[row] = math.nan, math.nan
        return x

    monkeypatch.setattr(MODEL, "hidden", poisoned)
    sampling = Sampling(max_tokens=4, temperature=0)
    ids = [made.add(prompt, sampling) for prompt in ([31], [1, 2], [3, 4])]
    events = drain(made)
    monkeypatch.undo()
    assert [events[id][-1].finish for id in ids] == ["error", "length", "length"]
    assert "NaN" in events[ids[0]][-1].error
    assert [ids_of(events[id]) for id in ids[1:]] == [solo(p, sampling).ids for p in ([1, 2], [3, 4])]


class Oracle:
    """A draft that guesses the counting right, or every second time wrong, and checks greedily."""

    def propose(self, sequences):
        for one in sequences:
            stride = (one.ids[-1] - one.ids[-2]) % 32
            one.guesses = [(one.ids[-1] + stride * (i + 1)) % 32 for i in range(3)]
            if one.n_new % 2:
                one.guesses[1] = 0

    def verify(self, sequence, logits):
        best, ids = logits.argmax(-1).tolist(), []
        for guess, id in zip([*sequence.guesses, None], best, strict=True):
            ids.append(id)
            if guess != id:
                break
        return ids

    def close(self, id):
        pass


@pytest.mark.exercise("Sequence.accept")
def test_guesses_are_verified_inside_the_batch():
    """With a draft the greedy tokens are the same, in fewer steps, at all places of the batch."""
    sampling = Sampling(max_tokens=15, temperature=0, logprobs=2)
    prompts = [[1, 2, 3], [4, 6, 8, 10], [9, 12], [3, 4]]
    plain, drafted = engine(max_step_tokens=12), engine(max_step_tokens=12, draft=Oracle())
    for got, want in zip(*(made.generate(prompts, sampling) for made in (drafted, plain)), strict=True):
        assert got.ids == want.ids == tuple(entry.id for entry in got.logprobs)
        same = pytest.approx([entry.logprob for entry in want.logprobs], abs=1e-5)
        assert [entry.logprob for entry in got.logprobs] == same
    assert drafted.stats()["steps"] < plain.stats()["steps"]


class Known:
    """A prefix index of one entry, in blocks of two."""

    block, tokens = 2, 0

    def __init__(self):
        self.ids, self.handles = [], []

    def match(self, ids):
        n = 0
        while n + 2 <= min(len(ids), len(self.ids)) and ids[n : n + 2] == self.ids[n : n + 2]:
            n += 2
        return n, self.handles[: n // 2]

    def insert(self, ids, handles):
        assert len(handles) == len(ids) // 2
        self.ids, self.handles = list(ids), list(handles)

    def evict(self, n_tokens):
        assert n_tokens == 0
        return []


def test_known_beginnings_are_not_read_again():
    made, prompt = engine(prefix=Known()), [2, 4, 6, 8, 10, 12]
    sampling = Sampling(max_tokens=3, temperature=0)
    [first] = made.generate([prompt], sampling)
    fed = made.stats()["tokens fed"]
    [again] = made.generate([prompt], sampling)
    assert first.ids == again.ids == solo(prompt, sampling).ids
    assert made.stats()["tokens fed"] - fed == fed - 4


# ---- slots and rows ----


@pytest.mark.exercise("SlotCache.update")
def test_slots_are_an_addressed_cache():
    def make(B, K, D, size):
        pool = tuple(torch.zeros(B + 3, K, size, D) for _ in "kv")
        return SlotCache(pool, [3, 0, 4, 2][:B] if size % 2 else list(range(1, B + 1)), size)

    check_cache(make)
    check_cache(lambda B, K, D, size: make(B, K, D, size + 1 - size % 2))


@pytest.mark.exercise("SlotCache.update")
def test_slots_touch_their_own_rows_only():
    pool = tuple(torch.full((4, 2, 8, 4), 7.0) for _ in "kv")
    new = torch.arange(16.0).view(2, 2, 1, 4)
    k, v = SlotCache(pool, [2, 0], 3).update(new, -new, torch.tensor([[2], [1]]))
    assert k.shape == v.shape == (2, 2, 3, 4)
    assert torch.equal(k[0, :, 2], new[0, :, 0]) and torch.equal(v[1, :, 1], -new[1, :, 0])
    assert (pool[0][[1, 3]] == 7).all() and (pool[0] == 7).sum() == 4 * 64 - 16 + (new == 7).sum()
    k, _ = SlotCache(pool, [1, 2], 3).update(new, new, torch.tensor([[0], [0]]))
    assert k.data_ptr() == pool[0][1].data_ptr()  # neighbours: a view


@pytest.mark.exercise("ragged")
def test_rows_are_padded_by_what_they_write_anyway():
    a, b = Sequence(0, [5, 6, 7, 8], None, None), Sequence(4, [9, 3], None, None)
    a.computed, b.computed = 1, 1
    step = ragged([(a, 3), (b, 1)])
    assert step.ids == (0, 4) and step.ns == (3, 1) and step.longest == 4
    assert step.tokens.tolist() == [[6, 7, 8], [3, 3, 3]]
    assert step.positions.tolist() == [[1, 2, 3], [1, 1, 1]]
    parts = forwards([(a, 1), (b, 2), (a, 100), (b, 101)])
    assert [[n for _, n in part] for part in parts] == [[1, 2], [100, 101]]
    parts = forwards([(a, 1)] * 15 + [(b, n) for n in (5, 20, 30)])  # 15 x 4 tokens of padding, and 10
    assert [[n for _, n in part] for part in parts] == [[1] * 15 + [5], [20, 30]]


def test_slots_refuse_what_would_mix_texts():
    store = SlotStore(MODEL, 2, 8, budget=12)
    store.open(0, [1])
    assert store.reserve(0, 8) and not store.reserve(0, 9) and store.can_admit(5) and not store.can_admit(6)
    with pytest.raises(UserError, match="open already"):
        store.open(0, [1])
    store.open(1, [2])
    assert not store.can_admit(1) and not store.reserve(1, 5) and store.reserve(1, 4)
    store.close(0)
    with pytest.raises(UserError, match="closed twice"):
        store.close(0)
    store.pools[0][0][store.slot[1], :, :4] = 3
    store.fork(1, 2)
    assert (store.pools[0][0][store.slot[2], :, :4] == 3).all() and store.slot[1] != store.slot[2]


# ---- static batching, and the bound ----


@pytest.mark.exercise("continuous_steps")
def test_the_schedule_is_counted():
    assert continuous_steps([3, 1, 1, 1], 2) == 3 and continuous_steps([5], 4) == 5
    assert continuous_steps([2, 2, 2], 1) == 6 and continuous_steps([], 3) == 0
    assert bound([8, 1, 1, 1, 8, 1, 1, 1], 4) == 16 / 9


@pytest.mark.exercise("continuous_steps")
def test_the_engine_needs_as_many_steps_as_counted():
    lengths = [9, 2, 1, 4, 1, 7, 3]
    made = engine(slots=3, max_step_tokens=16)
    made.generate([[1]] * 7, [Sampling(max_tokens=n, temperature=0) for n in lengths])
    assert made.stats()["steps"] == continuous_steps(lengths, 3)


def test_static_batches_give_the_same_tokens():
    prompts, lengths = [[1, 2, 3], [4, 6], [9], [3, 6, 9, 12], [5, 6]], [7, 2, 5, 1, 9]
    want = [list(solo(p, Sampling(max_tokens=n, temperature=0)).ids)
            for p, n in zip(prompts, lengths, strict=True)]  # fmt: skip
    assert static(MODEL, prompts, lengths, 2) == want
    got = engine().generate(prompts, [Sampling(max_tokens=n, temperature=0) for n in lengths])
    assert [list(answer.ids) for answer in got] == want
    assert engine_file.SlotStore is SlotStore
