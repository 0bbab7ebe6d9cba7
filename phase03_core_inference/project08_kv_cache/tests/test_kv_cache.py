"""The caches: the families' promises, the same tokens as without, what is refused, and that they are on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT, attend, set_attend
from common.testing import check_attend, check_cache, tiny, trained
from phase03_core_inference.project08_kv_cache._modes import MODES, Seen, measure, watched
from phase03_core_inference.project08_kv_cache.kv_cache import (
    GrowingCache,
    KVCache,
    StaticCache,
    caches_for,
    decode,
    decode_ragged,
    drawn,
    greedy,
    recompute,
)
from phase03_core_inference.project08_kv_cache.window import WindowCache, windowed


def loud(**sizes):
    """A float64 model whose attention matters: large weights, so that a wrong key changes the argmax."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(**sizes)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(8 if p.dim() > 1 else 1)
    return model


MODEL = loud()


def rows(B, T, seed=0):
    return torch.randint(97, (B, T), generator=torch.Generator().manual_seed(seed))


def chooser(kind, B):
    return greedy if kind == "greedy" else drawn(Sampling(temperature=1.3, top_k=20, seed=3).rows(B))


# ---- the two families ----


@pytest.mark.parametrize("kind", [GrowingCache, KVCache])
@pytest.mark.exercise("KVCache.update")
def test_counting_caches_keep_their_promises(kind):
    """Appends, chunk splits, rewinding, refusals, and a model's logits with and without."""
    check_cache(lambda B, K, D, size: kind(B, K, D, size))


@pytest.mark.exercise("StaticCache.update")
def test_the_static_cache_keeps_its_promises():
    """Ragged rows, rollback, refusals, and a model's logits with and without."""
    check_cache(lambda B, K, D, size: StaticCache(B, K, D, size))


@pytest.mark.exercise("KVCache.update")
def test_an_append_copies_nothing():
    """What is returned lies where it always lay: no new tensor, however long the text."""
    cache = KVCache(1, 2, 8, 16)
    for n in range(1, 9):
        k, v = cache.update(torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8), torch.tensor([n - 1]))
        assert k.data_ptr() == cache.k.data_ptr() and v.data_ptr() == cache.v.data_ptr()
        assert k.shape == v.shape == (1, 2, n, 8)


@pytest.mark.exercise("StaticCache.update")
def test_the_static_cache_always_returns_the_same_tensors():
    """All slots, at the same address, whatever was written: a graph may hold them."""
    cache = StaticCache(2, 2, 8, 16)
    where = cache.k.data_ptr(), cache.v.data_ptr()
    for place in (0, 7, 3):
        k, v = cache.update(*torch.ones(2, 2, 2, 1, 8), torch.tensor([[place], [place + 1]]))
        assert (k.data_ptr(), v.data_ptr()) == where and k.shape == v.shape == (2, 2, 16, 8)


def test_a_cache_takes_the_type_and_place_of_the_weights():
    for kind in (GrowingCache, KVCache, StaticCache, WindowCache):
        for cache in caches_for(MODEL, kind, 3, 5):
            assert cache.k.dtype == cache.v.dtype == torch.float64
            assert cache.k.shape[:2] == (3, MODEL.config.n_kv_head)


# ---- the same tokens ----


@given(B=st.integers(1, 3), T=st.integers(1, 14), n=st.integers(1, 12),
       kind=st.sampled_from(["greedy", "drawn"]))  # fmt: skip
@settings(max_examples=15, deadline=None, derandomize=True)
@pytest.mark.exercise("KVCache.update", "decode")
def test_matches_recomputing(B, T, n, kind):
    """Any batch, prompt and answer, greedy and drawn: the tokens that recomputing gives."""
    tokens, choose = rows(B, T, seed=T), chooser(kind, B)
    want = recompute(MODEL, tokens, n, choose)
    assert torch.equal(decode(MODEL, tokens, n, caches_for(MODEL, KVCache, B, T + n), choose), want)
    assert torch.equal(decode(MODEL, tokens, n, choose=choose), want)


@given(lengths=st.lists(st.integers(1, 15), min_size=1, max_size=4), n=st.integers(1, 8),
       kind=st.sampled_from(["greedy", "drawn"]))  # fmt: skip
@settings(max_examples=12, deadline=None, derandomize=True)
@pytest.mark.exercise("StaticCache.update", "decode_ragged")
def test_matches_each_row_alone(lengths, n, kind):
    """Rows of any lengths side by side, in caches full of another text: each row as if it were alone."""
    prompts = [rows(1, T, seed=i)[0].tolist() for i, T in enumerate(lengths)]
    caches = caches_for(MODEL, StaticCache, len(prompts), 40)
    for cache in caches:
        cache.k.fill_(3.0), cache.v.fill_(-3.0)
    settings = Sampling(temperature=1.3, seed=5).rows(len(prompts))
    got = decode_ragged(MODEL, prompts, n, caches, greedy if kind == "greedy" else drawn(settings))
    for row, prompt in enumerate(prompts):
        choose = greedy if kind == "greedy" else drawn(settings[row : row + 1])
        assert torch.equal(got[row : row + 1], recompute(MODEL, torch.tensor([prompt]), n, choose))


def test_matches_on_a_trained_model():
    """Where the argmax is clear: all caches, `common.generate` with the same seeds, and recomputing."""
    model, sampling = trained(), Sampling(max_tokens=20, temperature=0.9, top_p=0.95, seed=11)
    tokens = torch.tensor([[5, 7, 9, 11], [1, 2, 3, 4]])
    for samplings in (Sampling(max_tokens=20, temperature=0.0, seed=0).rows(2), sampling.rows(2)):
        want = recompute(model, tokens, 20, drawn(samplings))
        for kind in (GrowingCache, KVCache):
            got = decode(model, tokens, 20, caches_for(model, kind, 2, 24), drawn(samplings))
            assert torch.equal(got, want)
        static = caches_for(model, StaticCache, 2, 24)
        assert torch.equal(decode_ragged(model, tokens.tolist(), 20, static, drawn(samplings)), want)
        for caches in (caches_for(model, KVCache, 2, 24), caches_for(model, StaticCache, 2, 24)):
            answers = generate(model, tokens.tolist(), samplings, caches=caches)
            assert [list(answer.ids) for answer in answers] == want.tolist()


@pytest.mark.exercise("KVCache.update")
def test_a_rewound_cache_goes_on_from_there():
    """Back to the prompt, and another text: nothing of the first one is left."""
    caches = caches_for(MODEL, KVCache, 1, 40)
    first, second = rows(1, 9, seed=1), rows(1, 6, seed=2)
    decode(MODEL, first, 8, caches)
    for cache in caches:
        cache.length = 4
    got = decode(MODEL, second, 10, caches)
    assert torch.equal(got, recompute(MODEL, torch.cat((first[:, :4], second), 1), 10))


@pytest.mark.exercise("decode")
def test_decode_goes_on_behind_what_is_held():
    """A text in two calls is the text in one."""
    tokens = rows(2, 5)
    caches = caches_for(MODEL, KVCache, 2, 30)
    first = decode(MODEL, tokens, 6, caches)
    again = decode(MODEL, first[:, -1:], 6, caches)
    assert torch.equal(torch.cat((first, again), 1), recompute(MODEL, tokens, 12))


# ---- it is on ----


@pytest.mark.exercise("decode")
def test_is_on():
    """Watched from inside: the prompt is fed once, then single tokens, each behind what the cache holds."""
    tokens = rows(1, 7)
    with watched(MODEL) as seen:
        decode(MODEL, tokens, 5, caches_for(MODEL, KVCache, 1, 12))
    assert (seen.fed, seen.held, seen.mode()) == ([7, 1, 1, 1, 1], [0, 7, 8, 9, 10], "cache")
    with watched(MODEL) as seen:
        decode(MODEL, tokens, 5)
    assert (seen.fed, seen.mode()) == ([7, 8, 9, 10, 11], "no cache")


@pytest.mark.exercise("decode_ragged")
def test_is_on_for_ragged_rows():
    with watched(MODEL) as seen:
        decode_ragged(MODEL, [[1, 2, 3], [4]], 4, caches_for(MODEL, StaticCache, 2, 8))
    assert seen.fed == [3, 1, 1, 1] and seen.mode() == "cache"


def test_a_flag_that_goes_nowhere_is_noticed(monkeypatch):
    """The benchmark asks the model which mode ran, not the flag: caches that are ignored are noticed."""
    from phase03_core_inference.project08_kv_cache import _modes

    def without(model, tokens, n, caches, choose):
        return recompute(model, tokens, n, choose)

    monkeypatch.setattr(_modes, "decode", without)
    assert measure(MODEL, rows(1, 4), 3, "no cache").mode == "no cache"
    with pytest.raises(AssertionError, match="asked for cache, but no cache ran"):
        measure(MODEL, rows(1, 4), 3, "cache")
    with pytest.raises(AssertionError, match="some forwards had a cache"):
        Seen([3, 1], [None, 3]).mode()


def test_a_measured_run_says_what_it_held():
    runs = {mode: measure(MODEL, rows(1, 4), 6, mode) for mode in MODES}
    assert torch.equal(runs["cache"].ids, runs["no cache"].ids)
    size = MODEL.config
    assert runs["cache"].cache_bytes == 2 * 8 * size.n_layer * size.n_kv_head * size.head_dim * 10
    assert runs["no cache"].cache_bytes == 0 and len(runs["cache"].seconds) == 6


# ---- wrong use ----


def update(cache, T=1, positions=None, B=1, K=2):
    x = torch.zeros(B, K, T, 8)
    return cache.update(x, x, torch.arange(T) if positions is None else torch.tensor(positions))


@pytest.mark.exercise("KVCache.update")
def test_wrong_use_of_a_counting_cache_raises():
    """Every length and position that cannot be right is refused, and leaves the cache as it was."""
    cache = KVCache(1, 2, 8, 4)
    update(cache, 2)
    wrong = [({"positions": [3]}, "positions 3 to 3, but the cache stands at 2 to 2"),
             ({"positions": [0]}, "positions 0 to 0"), ({"positions": [[2]]}, "StaticCache"),
             ({"T": 3, "positions": [2, 3, 4]}, "do not fit into 4"),
             ({"B": 2, "positions": [2]}, "other rows"), ({"K": 1, "positions": [2]}, "heads"),
             ({"T": 2, "positions": [2]}, r"positions \(2,\)")]  # fmt: skip
    for use, message in wrong:
        with pytest.raises(UserError, match=message):
            update(cache, **use)
        assert cache.length == 2
    for n in (-1, 3):
        with pytest.raises(UserError, match="can only go back"):
            cache.length = n


@pytest.mark.exercise("StaticCache.update")
def test_wrong_use_of_a_static_cache_raises():
    cache = StaticCache(1, 2, 8, 4)
    with pytest.raises(UserError, match="positions"):
        update(cache)
    for use, message in (({"positions": [[4]]}, "4 slots"), ({"positions": [[-1]]}, "-1 to -1"),
                         ({"B": 2, "positions": [[0], [0]]}, "other rows"),
                         ({"T": 2, "positions": [[0]]}, r"positions \(1, 2\)")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            update(cache, **use)


@pytest.mark.parametrize("call, message", [
    (lambda: decode(MODEL, rows(1, 0), 3, caches_for(MODEL, KVCache, 1, 8)), "the prompt is empty"),
    (lambda: decode(MODEL, rows(1, 3), 0), "at least 1"),
    (lambda: decode(MODEL, rows(1, 60), 6), "more than the context of 64"),
    (lambda: decode(MODEL, rows(1, 3), 9, caches_for(MODEL, KVCache, 1, 6)), "do not fit into 6"),
    (lambda: decode_ragged(MODEL, [[1], []], 2, caches_for(MODEL, StaticCache, 2, 8)), "empty"),
    (lambda: decode_ragged(MODEL, [], 2, caches_for(MODEL, StaticCache, 2, 8)), "empty"),
    (lambda: decode_ragged(MODEL, [[1, 2]], 9, caches_for(MODEL, StaticCache, 1, 6)), "6 slots"),
    (lambda: decode_ragged(MODEL, [[1], [2] * 64], 2, caches_for(MODEL, StaticCache, 2, 64)), "context"),
])  # fmt: skip
@pytest.mark.exercise("decode", "decode_ragged")
def test_prompts_that_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.exercise("decode", "decode_ragged")
def test_a_full_context_has_one_answer():
    """64 tokens in a context of 64: one more can be drawn, and is never fed."""
    tokens = rows(1, 64)
    want = recompute(MODEL, tokens, 1)
    assert torch.equal(decode(MODEL, tokens, 1, caches_for(MODEL, KVCache, 1, 64)), want)
    assert torch.equal(decode_ragged(MODEL, tokens.tolist(), 1, caches_for(MODEL, StaticCache, 1, 64)), want)


# ---- the window ----


@pytest.mark.parametrize("window", [1, 3, 30])
def test_a_windowed_attend_keeps_the_contract(window):
    check_attend(windowed(window), bias=lambda behind: torch.where(behind >= window, -math.inf, 0.0).double())


@pytest.mark.parametrize("window, T", [(1, 4), (3, 1), (4, 9), (16, 5)])
@pytest.mark.exercise("WindowCache.extend")
def test_matches_the_window_without_a_cache(window, T):
    """Through prompts shorter and longer than the window: the tokens of a windowed model that recomputes."""
    model = set_attend(loud(), windowed(window))
    tokens = rows(2, T)
    want = recompute(model, tokens, 20)
    assert torch.equal(decode(model, tokens, 20, caches_for(model, WindowCache, 2, window)), want)
    assert torch.equal(decode(model, tokens, 20, caches_for(model, KVCache, 2, 40)), want)
    if window < T + 19:
        assert not torch.equal(want, recompute(loud(), tokens, 20)), "the window changes nothing"


@pytest.mark.exercise("WindowCache.extend")
def test_the_window_forgets():
    """However long the text, window - 1 tokens are held, in storage of just that size."""
    cache = WindowCache(1, 2, 8, 4)
    for T in (1, 7, 1, 1):
        k, v, keys = cache.extend(torch.ones(1, 2, T, 8), torch.ones(1, 2, T, 8))
        assert k.size(2) == v.size(2) == len(keys) and keys[-1] == cache.length - 1
        assert (keys.diff() == 1).all()
        held = min(3, cache.length)
        assert cache.k.size(2) == cache.v.size(2) == held
        assert cache.k.untyped_storage().nbytes() == held * 2 * 8 * 4
    assert cache.length == 10


def test_the_plain_attend_fails_on_a_window():
    q = torch.zeros(1, 2, 1, 8)
    with pytest.raises(AttributeError):
        attend(q, q, q, positions=torch.arange(1), cache=WindowCache(1, 2, 8, 4))
    with pytest.raises(UserError, match="at least itself"):
        WindowCache(1, 2, 8, 0)
