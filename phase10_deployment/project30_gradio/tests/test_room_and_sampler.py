"""Which turns are sent; what a token is drawn from."""

import asyncio
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.generate import Sampling
from common.sampling import sample, truncate
from phase10_deployment.project30_gradio.room import by_guess, fit, parted
from phase10_deployment.project30_gradio.sampler import (
    distinct,
    drawn,
    effective,
    entropy,
    shaped,
    softmax,
)


def talk(*sizes, system=0):
    """Turns of so many tokens each (said and answered), behind a system prompt of some."""
    found = [{"role": "system", "content": "s" * system}] if system else []
    for i, size in enumerate(sizes):
        found.append({"role": "user", "content": chr(97 + i) * (size - size // 2)})
        found.append({"role": "assistant", "content": chr(97 + i) * (size // 2)})
    return found


def fitted(messages, room, start=0, **options):
    """fit, with a character for a token: (the letters that are sent, start, how often it counted)."""
    counted = []

    async def count(some):
        counted.append(some)
        return sum(len(one["content"]) for one in some)

    sent, at = asyncio.run(fit(messages, count, room, start, **options))
    return "".join(dict.fromkeys("".join(one["content"] for one in sent))), at, len(counted)


# ---- room ----


@pytest.mark.exercise("fit")
def test_what_fits_is_sent_whole():
    assert fitted(talk(10, 10, 10), 30)[:2] == ("abc", 0)
    assert fitted(talk(10, 10, 10, system=5), 35)[:2] == ("sabc", 0)
    assert fitted([], 10)[:2] == ("", 0)


@pytest.mark.exercise("fit")
def test_the_oldest_go_and_the_system_prompt_stays():
    """A cut goes down to keep x room, by whole turns."""
    assert fitted(talk(10, 10, 10, 10, 10, system=5), 50, keep=0.5)[:2] == ("sde", 3)
    assert fitted(talk(10, 10, 10, 10, 10, system=5), 50, keep=1.0)[:2] == ("sbcde", 1)


@pytest.mark.exercise("fit")
def test_where_it_begins_stays_as_long_as_that_fits():
    """Otherwise each prompt begins differently, and no prefix is ever found again."""
    starts = [fitted(talk(*[10] * n), 50, start, keep=0.6)[1] for n, start in
              ((5, 0), (6, 0), (7, 3), (8, 3), (9, 3))]  # fmt: skip
    assert starts == [0, 3, 3, 3, 6]


@pytest.mark.exercise("fit")
def test_the_last_turn_stays_and_too_long_a_one_is_refused():
    assert fitted(talk(10, 10, 45), 50, keep=0.5)[:2] == ("c", 2)
    assert fitted(talk(10, 45), 50, start=9)[:2] == ("b", 1), "a start that is not there any more"
    with pytest.raises(UserError, match=r"makes 60 tokens.*room for 50"):
        fitted(talk(10, 60), 50)
    with pytest.raises(UserError, match="makes 55 tokens"):
        fitted(talk(10, system=45), 50)


@pytest.mark.exercise("fit")
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(0, 10), st.integers(0, 40),
       st.integers(40, 200), st.sampled_from([0.4, 0.6, 1.0]))  # fmt: skip
def test_matches_trying_all(sizes, system, start, room, keep):
    """The same as trying one start after the other, and it counts seldom."""
    last, total = len(sizes) - 1, lambda at: system + sum(sizes[at:])
    start = min(start, last)
    want = start
    if total(start) > room:
        want = next((at for at in range(start + 1, last) if total(at) <= keep * room), last)
    _, at, counted = fitted(talk(*sizes, system=system), room, start, keep=keep)
    assert at == want and total(at) <= room
    assert counted <= 3 + math.ceil(math.log2(len(sizes) + 1))


def test_the_naive_way_loses_the_system_prompt_first():
    messages = talk(40, 40, system=20)
    assert "s" not in "".join(one["content"] for one in by_guess(messages, 20))
    system, turns = parted(messages)
    assert len(system) == 1 and [len(turn) for turn in turns] == [2, 2]


# ---- sampler ----

LOGITS = torch.randn(8, 50, generator=torch.Generator().manual_seed(3)) * 3
SETTINGS = [(1.0, 0, 1.0, 0.0), (0.5, 0, 1.0, 0.0), (1.7, 5, 1.0, 0.0), (1.0, 0, 0.6, 0.0),
            (0.9, 0, 1.0, 0.2), (0.8, 20, 0.9, 0.05), (2.0, 1, 0.1, 1.0)]  # fmt: skip


@pytest.mark.exercise("entropy")
def test_matches_torch_on_entropy():
    """Its Categorical says the same, in nats."""
    for row in LOGITS:
        want = torch.distributions.Categorical(logits=row.double()).entropy().item() / math.log(2)
        assert entropy(softmax(row.double().numpy())) == pytest.approx(want, abs=1e-9)


@pytest.mark.exercise("entropy")
def test_entropy_of_what_one_knows():
    """n equal shares: log2 n bits; a certain one: none; a share of 0 says nothing."""
    for n in (1, 2, 8):
        shares = np.concatenate([np.full(n, 1 / n), np.zeros(3)])
        assert entropy(shares) == pytest.approx(math.log2(n)) and effective(shares) == pytest.approx(n)
    assert entropy(np.array([0.5, 0.25, 0.25])) == pytest.approx(1.5)


@pytest.mark.exercise("shaped")
@pytest.mark.parametrize("temperature, top_k, top_p, min_p", SETTINGS)
def test_matches_the_engine(temperature, top_k, top_p, min_p):
    """The shares are those that `common.sampling` draws from."""
    sampling = Sampling(top_k=top_k, top_p=top_p, min_p=min_p)
    want = truncate(LOGITS.double() / temperature, [sampling] * len(LOGITS)).softmax(-1).numpy()
    for row, one in zip(LOGITS.double().numpy(), want, strict=True):
        assert shaped(row, temperature, top_k, top_p, min_p) == pytest.approx(one, abs=1e-12)


@pytest.mark.exercise("shaped")
@pytest.mark.slow
@pytest.mark.parametrize("temperature, top_k, top_p, min_p", SETTINGS)
def test_matches_transformers(temperature, top_k, top_p, min_p):
    """Its warpers, in the same order, leave the same shares."""
    process = pytest.importorskip("transformers.generation.logits_process")
    warped = process.TemperatureLogitsWarper(temperature)(None, LOGITS.double())
    if top_k:
        warped = process.TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = process.TopPLogitsWarper(top_p)(None, warped)
    if min_p:
        warped = process.MinPLogitsWarper(min_p)(None, warped)
    for row, want in zip(LOGITS.double().numpy(), warped.softmax(-1).numpy(), strict=True):
        assert shaped(row, temperature, top_k, top_p, min_p) == pytest.approx(want, abs=1e-6)


@pytest.mark.exercise("shaped")
def test_shares_by_hand():
    """Shares 4 : 2 : 1 : 1, which are 0.5, 0.25, 0.125 and 0.125."""
    logits = np.log(np.array([2.0, 1.0, 4.0, 1.0]))

    def kept(**settings):
        return [round(x, 4) for x in shaped(logits, **settings)]

    assert kept() == [0.25, 0.125, 0.5, 0.125]
    assert kept(temperature=0) == [0, 0, 1, 0]
    assert kept(temperature=0.5) == [round(x / 22, 4) for x in (4, 1, 16, 1)]
    assert kept(top_k=2) == [0.3333, 0, 0.6667, 0]
    assert kept(top_k=3) == kept() == kept(top_k=99), "equals share a fate"
    assert kept(top_p=0.5) == [0, 0, 1, 0] and kept(top_p=0.51) == [0.3333, 0, 0.6667, 0]
    assert kept(min_p=0.5) == [0.3333, 0, 0.6667, 0] and kept(min_p=0.51) == [0, 0, 1, 0]
    assert kept(top_k=2, top_p=0.7) == [0.3333, 0, 0.6667, 0], "top-p counts what top-k has left"
    assert shaped(np.array([1e4, 0.0]), temperature=0.01).tolist() == [1, 0], "nothing overflows"


def test_draws_come_as_often_as_their_shares_say():
    """And they are those of the engine: the same row and the same uniform number, the same token."""
    shares, uniform = shaped(LOGITS[0].double().numpy(), 0.8, 20, 0.9), np.linspace(0, 0.999999, 200)
    mine = [drawn(shares, u) for u in uniform]
    engine = sample(LOGITS[:1].expand(200, -1).double(), Sampling(temperature=0.8, top_k=20, top_p=0.9),
                    torch.tensor(uniform)).tolist()  # fmt: skip
    assert sum(a != b for a, b in zip(mine, engine, strict=True)) <= 1
    assert distinct(np.full(4, 0.25), 1) == pytest.approx(1) and distinct(np.eye(1, 5, 2)[0], 9) == 1
    with pytest.raises(UserError):
        distinct(shares, 0)
