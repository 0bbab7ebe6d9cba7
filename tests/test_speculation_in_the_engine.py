"""Project 11's drafts in project 12's engine: the same tokens, in fewer steps, whoever shares the batch."""

import random

import pytest
import torch

from common.generate import Sampling, generate
from common.testing import trained
from phase04_advanced_inference.project11_speculative_decoding.drafts import ModelDraft, PromptLookup
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore

MODEL, SMALL = trained(), trained(steps=40, seed=3, n_layer=1)  # float64: nothing ties
DRAFTS = {"itself": lambda: ModelDraft(MODEL, 3, rows=3), "small": lambda: ModelDraft(SMALL, 3, rows=3),
          "two rows": lambda: ModelDraft(SMALL, 4, rows=2), "text": lambda: PromptLookup(4)}  # fmt: skip


def engine(draft=None, *, budget=None, max_step_tokens=9):
    store = SlotStore(MODEL, 3, 64, budget=budget)
    return Engine(MODEL, store, max_batch=3, max_step_tokens=max_step_tokens, draft=draft)


def requests(count, temperatures, seed=0):
    rng = random.Random(seed)
    for _ in range(count):
        start, stride, n = rng.randrange(32), rng.randrange(1, 5), rng.randrange(1, 16)
        sampling = Sampling(max_tokens=rng.randrange(1, 25), temperature=rng.choice(temperatures),
                            repetition_penalty=rng.choice([1.0, 1.3]), seed=rng.getrandbits(32),
                            logprobs=rng.choice([0, 0, 2]))  # fmt: skip
        yield [(start + stride * i) % 32 for i in range(n)], sampling


@pytest.mark.parametrize("budget", [None, 40])
@pytest.mark.parametrize("name", DRAFTS)
def test_greedy_tokens_are_those_of_a_solo_decode(name, budget):
    """Mixed lengths, chunks, more requests than slots, preemptions (budget): the same ids, in fewer steps."""
    asked, draft = list(requests(12, [0])), DRAFTS[name]()
    made, plain = engine(draft, budget=budget), engine(budget=budget)
    answers = made.generate(*map(list, zip(*asked, strict=True)))
    for (ids, sampling), got in zip(asked, answers, strict=True):
        [want] = generate(MODEL, [ids], sampling)
        assert (got.ids, got.finish) == (want.ids, want.finish)
        assert len(got.logprobs) == len(want.logprobs)
    plain.generate(*map(list, zip(*asked, strict=True)))
    assert made.stats()["steps"] < plain.stats()["steps"]
    assert not draft.q and not getattr(draft, "fed", {})
    preempted = made.stats()["preemptions"] + plain.stats()["preemptions"]
    assert bool(preempted) == (budget is not None)


def test_seeded_tokens_are_those_of_a_solo_decode_where_no_chance_guesses():
    """Looked-up guesses: every request's drawn text is the very one of its seed."""
    asked = list(requests(12, [0, 0.7, 1.5], seed=1))
    answers = engine(PromptLookup(4)).generate(*map(list, zip(*asked, strict=True)))
    assert [got.ids for got in answers] == [generate(MODEL, [ids], s)[0].ids for ids, s in asked]


def test_cancelled_requests_leave_the_draft():
    draft = ModelDraft(SMALL, 3, rows=3)
    made = engine(draft, max_step_tokens=16)
    kept, gone = (made.add(ids, Sampling(max_tokens=20, temperature=0)) for ids in ([1, 2, 3], [4, 6, 8]))
    events = made.step() + made.step()
    assert set(draft.row) == {kept, gone}
    assert made.cancel(gone) and set(draft.row) == {kept}
    while made.busy:
        events += made.step()
    ids = tuple(id for event in events if event.id == kept for id in event.ids)
    assert ids == generate(MODEL, [[1, 2, 3]], Sampling(max_tokens=20, temperature=0))[0].ids
    assert sorted(draft.free) == [0, 1, 2]


@pytest.mark.slow
def test_drawn_tokens_are_as_frequent_inside_the_engine():
    """5,000 requests with a draft that draws: the first token that was guessed has the model's shares."""
    hot = Sampling(max_tokens=2, temperature=3.0)
    samplings = [Sampling(max_tokens=3, temperature=hot.temperature, seed=i) for i in range(5000)]
    answers = engine(ModelDraft(SMALL, 2, rows=3), max_step_tokens=16).generate([[3, 5, 7]] * 5000, samplings)
    seconds = torch.zeros(32)
    with torch.no_grad():
        first = (MODEL(torch.tensor([[3, 5, 7]]))[0, -1] / 3).softmax(-1)
        rows = torch.tensor([[3, 5, 7, i] for i in range(32)])
        due = (first[:, None] * (MODEL(rows)[:, -1] / 3).softmax(-1)).sum(0) * 5000
    for answer in answers:
        seconds[answer.ids[1]] += 1
    keep = due >= 5
    seen = torch.cat((seconds[keep], seconds[~keep].sum()[None])).double()
    due = torch.cat((due[keep], due[~keep].sum()[None])).double()
    distance, freedom = ((seen - due) ** 2 / due).sum(), torch.tensor(len(due) - 1.0)
    chance = torch.special.gammaincc(freedom / 2, distance.float() / 2)
    assert chance > 0.01
