"""Passages put together: to the last digits what the oracle's mask says, which is not quite the whole."""

import pytest
import torch

from common import variants
from common.errors import UserError
from common.model import GPT, Rope, rotate
from common.testing import close, tiny
from phase04_advanced_inference.project10_prompt_caching.chunk_cache import (
    ChunkCache,
    apart,
    recompute,
    turn,
)
from phase04_advanced_inference.project10_prompt_caching.eviction import TokenStore
from phase04_advanced_inference.project10_prompt_caching.sketch import CountMin, HotKeys


def loud(**sizes):
    """A model whose attention matters: large weights, so that a key at a wrong place shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(**sizes)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(8 if p.dim() > 1 else 1)
    return model


MODEL = loud()
FIRST, SECOND, THIRD = [5, 8, 13, 21, 34], [2, 71, 82], [31, 41, 59, 26, 53, 58]
QUESTION = [3, 14, 15]
NEAR = {"rtol": 1e-5, "atol": 1e-5}  # angles are float32 in any model


def cache(model=MODEL, budget=60, **options):
    return ChunkCache(model, TokenStore(budget), **options)


@pytest.mark.exercise("turn")
def test_matches_keys_made_at_their_place():
    """A key of positions 0 … turned by 9 is the key of positions 9 …; turned by 0 it is itself."""
    rope, x = Rope(8, 10_000.0), torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    here, there = (rotate(x, rope(at + torch.arange(5))) for at in (0, 9))
    close(turn(here, 9, rope), there, "turned by 9")
    assert turn(here, 0, rope).equal(here)
    close(turn(turn(here, 30, rope), -21, rope), there, "turns add up")


@pytest.mark.exercise("ChunkCache.prefill")
@pytest.mark.parametrize("passages", [[FIRST, SECOND, THIRD], [THIRD, FIRST], [SECOND], []])
def test_matches_the_masked_model(passages):
    """Logits equal those of the whole prompt, read with a mask that keeps the passages apart."""
    chunks = cache()
    for again in (False, True):
        found = chunks.prefill(passages, QUESTION, room=2)
        mask = apart([*map(len, passages), len(QUESTION)])
        close(found.logits, recompute(MODEL, passages, QUESTION, mask), f"kept before: {again}", **NEAR)
        assert found.reused == again * sum(map(len, passages)) and found.kept
    T = sum(map(len, passages)) + len(QUESTION)
    assert all(held.length == T for held in found.caches)
    MODEL.hidden(torch.tensor([[1, 2]]), caches=found.caches)  # there is room for two more


@pytest.mark.exercise("ChunkCache.prefill")
def test_is_on_a_passage_is_computed_once(monkeypatch):
    """In other company and at another place, only the question is fed to the model."""
    chunks, fed, hidden = cache(), [], MODEL.hidden

    def spy(tokens, **where):
        fed.append(tokens.size(1))
        return hidden(tokens, **where)

    monkeypatch.setattr(MODEL, "hidden", spy)
    chunks.prefill([FIRST, SECOND], QUESTION)
    chunks.prefill([THIRD, SECOND, FIRST], QUESTION)
    assert fed == [5, 3, 3, 6, 3]


@pytest.mark.exercise("ChunkCache.prefill")
def test_what_is_kept_stays_as_it_was():
    """To the bit: a request that decodes on writes into caches of its own."""
    chunks = cache()
    found = chunks.prefill([FIRST, SECOND], QUESTION, room=4)
    before = {key: item.value.clone() for key, item in chunks.store.items.items()}
    for held in found.caches:
        held.k.zero_()
        held.v.zero_()
    chunks.prefill([SECOND, FIRST], QUESTION)
    assert len(before) == 2
    assert all(chunks.store.items[key].value.equal(kept) for key, kept in before.items())


def test_it_is_not_exact_behind_the_first():
    """One passage first is exact; behind another, the first layer's keys are, and the deeper ones are not."""
    close(cache().prefill([FIRST], QUESTION).logits, recompute(MODEL, [FIRST], QUESTION), "alone", **NEAR)
    found, whole = cache().prefill([FIRST, SECOND], QUESTION), cache().prefill([FIRST + SECOND], QUESTION)
    close(found.caches[0].k[:, :, :8], whole.caches[0].k[:, :, :8], "the first layer's keys", **NEAR)
    assert (found.caches[1].k - whole.caches[1].k)[:, :, 5:8].abs().max() > 1e-3
    assert (found.logits - recompute(MODEL, [FIRST, SECOND], QUESTION)).abs().max() > 1e-3


def test_who_looks_at_whom():
    assert apart([2, 1, 2]).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_only_the_hot_are_kept():
    """With a sketch before the store, a passage asked for once does not push out one that everybody wants."""
    chunks = cache(budget=6, hot=HotKeys(CountMin(100), share=0.5))
    for cold in (SECOND, [9, 9], [8, 8], [7, 7]):
        found = chunks.prefill([FIRST, cold], QUESTION)
    assert list(chunks.store.items) == [tuple(FIRST)] and found.reused == 5 and not found.kept


def test_bad_input():
    with pytest.raises(UserError, match="question is empty"):
        cache().prefill([FIRST], [])
    with pytest.raises(UserError, match="passage is empty"):
        cache().prefill([[]], QUESTION)
    with pytest.raises(UserError, match="context is 64"):
        cache().prefill([FIRST] * 13, QUESTION)
    with pytest.raises(UserError, match="cannot be moved"):
        cache(variants.gpt2(GPT(tiny(n_kv_head=4))))
