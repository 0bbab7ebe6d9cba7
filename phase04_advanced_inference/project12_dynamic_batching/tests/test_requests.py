"""What a user may do with requests: fork them, read them late or twice, give up, ask for nonsense."""

import math

import pytest
import torch

from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT
from common.testing import tiny
from common.tokenizer import CharTokenizer
from phase04_advanced_inference.project12_dynamic_batching import _workload
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore
from phase04_advanced_inference.project12_dynamic_batching.scheduler import Waiting
from phase04_advanced_inference.project12_dynamic_batching.sequence import Sequence
from phase04_advanced_inference.project12_dynamic_batching.step import draw_rows

torch.manual_seed(0)
MODEL = GPT(tiny(vocab_size=32)).double().eval()
GREEDY = Sampling(max_tokens=9, temperature=0)


def engine(slots=3, *, max_step_tokens=7, budget=None, **options):
    store = SlotStore(MODEL, slots, 64, budget=budget)
    return Engine(MODEL, store, max_batch=slots, max_step_tokens=max_step_tokens, **options)


def solo(ids, sampling, **options):
    return generate(MODEL, [ids], sampling, **options)[0]


def drain(made):
    """{id: its ids}, and {id: its last event}."""
    ids, last = {}, {}
    while made.busy:
        for event in made.step():
            ids[event.id] = ids.get(event.id, ()) + event.ids
            last[event.id] = event
    return ids, last


# ---- forks ----


@pytest.mark.parametrize(("slots", "budget", "steps"), [(4, None, 6), (1, None, 6), (4, 24, 6), (4, None, 1)])
def test_a_fork_is_a_request_of_its_own(slots, budget, steps):
    """In the middle of an answer or of the prompt, with room and without: each as if it were alone."""
    made, prompt = engine(slots, budget=budget), list(range(9))
    first = made.add(prompt, Sampling(max_tokens=12, temperature=0))
    for _ in range(steps):
        made.step()
    begun = list(made.sequences[first].ids)
    drawn = Sampling(max_tokens=8, temperature=2.0, seed=3)
    forks = {made.fork(first, drawn): drawn, made.fork(first, GREEDY): GREEDY}
    ids, last = drain(made)
    for id, sampling in forks.items():
        assert ids[id] == solo(begun, sampling).ids and last[id].finish == "length"
    assert made.sequences == {} and all(n == 0 for _, n, _ in made.store.picture())


def test_a_fork_copies_what_was_read():
    made = engine()
    first = made.add(list(range(7)), Sampling(max_tokens=5, temperature=0))
    made.step()
    second = made.fork(first)
    assert made.sequences[second].computed == 7 and made.stats()["running"] == 2
    fed = made.stats()["tokens fed"]
    early = [event.ids for event in made.step() if event.id == second]
    assert made.stats()["tokens fed"] == fed + 2  # a token each: nothing is read again
    assert made.cancel(first)
    ids, _ = drain(made)
    begun = [*range(7), solo(list(range(7)), GREEDY).ids[0]]
    assert early[0] + ids[second] == solo(begun, GREEDY).ids[:5]


def test_nobody_is_overtaken_by_a_fork():
    made = engine(2)
    first = made.add([1], GREEDY)
    made.step()
    made.add([2], GREEDY)
    assert made.fork(first) in made.scheduler.waiting.sequences


def test_what_is_not_there_cannot_be_forked():
    made = engine()
    for id in (0, 7, None):
        with pytest.raises(UserError, match="ended, or never was"):
            made.fork(id)


# ---- streams ----


def test_a_stream_that_nobody_reads_loses_nothing():
    made = engine()
    id = made.add([1, 2], GREEDY)
    stream = made.stream(id)
    with pytest.raises(UserError, match="has a stream already"):
        made.stream(id)
    other = made.add([3], GREEDY)
    for _ in range(4):
        made.step()
    del stream
    ids, last = drain(made)
    assert ids[id] == solo([1, 2], GREEDY).ids and last[id].finish == "length" and not made.mail
    assert len(ids[other]) <= 9


def test_a_stream_begun_late_has_all_of_it_once():
    words = CharTokenizer.train("abcdefghijklmnopqrstuvwxyz012345")
    made = engine(tokenizer=words, eos_ids=())
    first, second = made.add([1, 2], GREEDY), made.add([3], GREEDY)
    reader = made.stream(second)
    for _ in range(3):
        next(reader)  # meanwhile the first draws, and nobody is told
    events = list(made.stream(first))
    want = solo([1, 2], GREEDY, tokenizer=words, eos_ids=())
    assert tuple(id for event in events for id in event.ids) == want.ids
    assert "".join(event.text for event in events) == want.text
    reader.close()
    assert first not in drain(made)[0]


# ---- nonsense ----


def test_one_bad_prompt_among_many_queues_none():
    made = engine()
    with pytest.raises(UserError, match="empty"):
        made.generate([[1, 2], []], GREEDY)
    with pytest.raises(UserError, match="1 samplings for 2 prompts"):
        made.generate([[1], [2]], [GREEDY])
    assert not made.busy and made.generate([], GREEDY) == []


def test_unknown_and_ended_ids():
    made = engine()
    id = made.add([1], GREEDY)
    assert not made.cancel(99) and not made.cancel(-1) and not made.cancel(None) and not made.cancel("x")
    assert made.cancel(id) and not made.cancel(id)
    (event,) = made.step()
    assert (event.id, event.finish, event.ids) == (id, "cancelled", ()) and not made.busy
    assert made.step() == []
    with pytest.raises(UserError, match="ended, or never was"):
        made.stream(id)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_tokens": -1}, {"temperature": math.nan},
                                   {"temperature": -0.1}, {"top_p": 0.0}])  # fmt: skip
def test_samplings_that_make_no_sense(wrong):
    made = engine()
    good = made.add([1, 2, 3], GREEDY)
    with pytest.raises(UserError):
        made.add([1], Sampling(**wrong))
    assert drain(made)[0] == {good: solo([1, 2, 3], GREEDY).ids}


def test_a_generated_answer_that_was_cancelled():
    made = engine()
    sequence = made.add([1], GREEDY)
    reader = made.stream(sequence)
    made.cancel(sequence)
    assert [event.finish for event in reader] == ["cancelled"]


# ---- what is counted ----


def test_an_idle_tenant_is_forgotten_when_it_owes_nothing():
    waiting = Waiting()

    def put(id, tenant, active=()):
        one = Sequence(id, [1], None, None, tenant=tenant)
        waiting.push(one, active)
        return one

    first = put(0, "a")
    waiting.served["a"] = 50.0
    waiting.remove(first)
    put(1, "b", {"a"})
    assert waiting.served == {"a": 50.0, "b": 50.0}  # level: a is being served
    waiting.served["b"] = 80.0
    put(2, "c", {"b"})
    assert waiting.served == {"b": 80.0, "c": 80.0}  # a would begin at 80 anyway
    waiting.served["b"] = 90.0
    for one in list(waiting.sequences.values()):
        waiting.remove(one)
    put(3, "d", {"c"})
    assert waiting.served == {"b": 90.0, "c": 80.0, "d": 80.0}  # b had more than its share, and is away
    waiting.remove(waiting.sequences[3])
    put(4, "e")
    assert waiting.served == {"e": 0.0}  # nobody was here: nobody owes anything


def test_a_draw_depends_on_its_own_row():
    rows = []
    for seed in (1, 2, 3):
        made = engine()
        rows.append(made._made([seed, 4], Sampling(temperature=3.0, seed=seed, logprobs=2)))
    logits = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    ids, known = draw_rows(logits, rows)
    for i in range(3):
        assert draw_rows(logits[i : i + 1], rows[i : i + 1])[0] == ids[i : i + 1]
        assert known[i].id == ids[i] and len(known[i].top) == 2


def test_waiting_times_and_ties_are_what_they_are_called():
    one = _workload.Request((1, 2), n=5, at=2.0)
    assert _workload.waits(one, 3.0, 5.0) == {"ttft": 1.0, "tpot": 0.5, "latency": 3.0}
    assert [_workload.percentile([3, 1, 2, 4], p) for p in (0, 50, 51, 100)] == [1, 2, 3, 4]
    right = [list(solo([1, 2], GREEDY).ids)]
    wrong = [[*right[0][:4], (right[0][4] + 1) % 32, *right[0][5:]]]
    assert _workload.differences(MODEL, [[1, 2]], right, right) == (0, 0)
    assert _workload.differences(MODEL, [[1, 2]], right, wrong) == (0, 1)
    assert _workload.differences(MODEL, [[1, 2]], right, [right[0][:-1]]) == (0, 1)
    flat = GPT(tiny(vocab_size=32)).eval()
    with torch.no_grad():
        flat.head.weight.zero_()  # all tokens tie
    assert _workload.differences(flat, [[1, 2]], right, wrong) == (1, 0)


def test_traffic_is_what_it_says():
    some = _workload.traffic(4000, vocab_size=9, median=20, longest=10_000, rate=5.0, seed=1)
    lengths = sorted(one.n for one in some)
    assert abs(lengths[2000] - 20) <= 2 and 28 < sum(lengths) / 4000 < 38  # e^0.5 times the median
    assert 4.5 < 4000 / some[-1].at < 5.5 and {len(one.prompt) for one in some} == set(range(8, 33))


def test_both_servers_answer_everybody():
    some = _workload.traffic(7, vocab_size=32, median=4, longest=9, prompt=(2, 5), rate=2000.0)
    servers = (_workload.served(MODEL, some, 3), _workload.served_in_batches(MODEL, some, 3, 0.01),
               _workload.served_in_batches(MODEL, some, 3))  # fmt: skip
    for found, seconds in servers:
        assert len(found) == 7 and all(0 < one["ttft"] <= one["latency"] <= seconds for one in found)
