"""The cache and what reads it: the family's promises, the bounds, the window, and that it is on."""

import copy
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.model import Cache, set_attend
from common.model import attend as core
from common.testing import check_attend, check_cache, close, reference, trained
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode
from phase05_quantization.project15_kv_quantization import kv_quant
from phase05_quantization.project15_kv_quantization.bags import integer_scores, scores
from phase05_quantization.project15_kv_quantization.kv_quant import (
    QuantizedCache,
    attend,
    compiled,
    floats,
    read,
    reading,
    with_floats,
)
from phase05_quantization.project15_kv_quantization.rows import (
    INT8,
    Format,
    dequantize,
    key_rows,
    keys_of,
    quantize,
    unpack,
    value_rows,
)

BITS = (8, 4, 2)
EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True)
FAR = {8: 0.02, 4: 0.32, 2: 1.6}  # half a step of a row of normal numbers, which reach to 4.6


@functools.cache
@torch.enable_grad()
def model():
    """Counts on in strides; trained only where a test wants it."""
    return trained(head_dim=16)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def caches(form, size=48, rows=1, of=None):
    return caches_for(of or model(), functools.partial(QuantizedCache, form=form), rows, size)


def filled(form, splits, B=2, K=2, D=16, size=None, dtype=torch.float64):
    """A cache that took in chunks of these lengths, and all that it was given."""
    S = sum(splits)
    k, v = drawn(B, K, S, D, dtype=dtype), drawn(B, K, S, D, seed=1, dtype=dtype)
    cache, start = QuantizedCache(B, K, D, size or S + 1, k, form), 0
    for n in splits:
        at = slice(start, start + n)
        got = cache.update(k[:, :, at], v[:, :, at], torch.arange(start, start + n))
        start += n
    return cache, k, v, got


SPLITS = st.lists(st.integers(1, 30), min_size=1, max_size=6)
SMALL = st.sampled_from([(8, 4), (8, 16), (4, 8), (4, 16), (2, 16)])  # bits and group
FORMS = st.builds(lambda kind, window: Format(*kind, window), SMALL, st.integers(1, 20))


# ---- the cache ----


@pytest.mark.exercise("QuantizedCache.settle")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group, window", [(16, 5), (64, 64)])
def test_the_cache_keeps_its_promises(bits, group, window):
    """Chunk splits, rewinding into codes, refusals: as any counting cache, but for the rounding."""
    form = Format(bits, group, window)
    check_cache(lambda B, K, D, size: QuantizedCache(B, K, D, size, form=form), lossy=FAR[bits])


@pytest.mark.exercise("QuantizedCache.settle")
@given(form=FORMS, splits=SPLITS)
@EXAMPLES
def test_the_window_is_exact(form, splits):
    """However the tokens came, the last `window` are bit-equal to what came, and what is older is codes."""
    cache, k, v, _ = filled(form, splits)
    S = sum(splits)
    assert cache.length == S and cache.rounded == max(0, S - form.window) // form.group * form.group
    keys, values, k_new, v_new = cache.past
    assert torch.equal(k_new, k[:, :, cache.rounded :]) and torch.equal(v_new, v[:, :, cache.rounded :])
    assert k_new.size(2) >= min(S, form.window)
    assert keys.table.size(2) == cache.closed and values.table.size(2) == cache.rounded
    assert cache.k.size(2) == cache.v.size(2) == cache.capacity


@pytest.mark.exercise("QuantizedCache.settle")
@given(form=FORMS, splits=SPLITS)
@EXAMPLES
def test_what_is_rounded_is_within_the_bound(form, splits):
    """Each number of the past is as near as its row's scale says, each row along its own axis."""
    cache, k, v, _ = filled(form, splits)
    keys, values, _, _ = cache.past
    old = slice(cache.rounded)
    off = (dequantize(keys, torch.float64) - key_rows(k[:, :, old], form.group)).abs()
    assert (off <= keys.bound * (1 + 1e-6)).all()
    off = (dequantize(values, torch.float64) - value_rows(v[:, :, old], cache.g)).abs()
    assert (off <= values.bound * (1 + 1e-6)).all()
    if cache.closed:  # codes are there, and not the floats
        assert not torch.equal(keys_of(dequantize(keys, torch.float64)), k[:, :, old])


@pytest.mark.exercise("QuantizedCache.settle")
def test_what_a_forward_brings_is_exact_for_it():
    """A chunk's own keys come back bit-equal, although most are codes afterwards."""
    cache, k, v, got = filled(Format(4, 8, 4), [30])
    assert torch.equal(got[0], k) and torch.equal(got[1], v) and cache.rounded == 24


@pytest.mark.parametrize("kind", [(8, 8), (4, 8), (2, 16)])
def test_bytes_in_memory_are_those_of_the_formula(kind):
    """Everything that is held, by its storage: codes, scales and lows as the form says, and the window."""
    form, G = Format(*kind, 12), kind[1]
    for D, K, size in ((16, 3, 200), (32, 1, 77), (16, 2, 9)):
        cache, *_ = filled(form, [size // 2, size - size // 2], B=2, K=K, D=D, size=size)
        tensors = cache.keys.table, cache.values.table, cache.k, cache.v
        codes = 2 * (max(0, size - 12) // G) * G * form.bytes_per_token(K, D)
        window = 2 * 2 * K * D * min(size, 12 + G) * 8
        assert sum(x.untyped_storage().nbytes() for x in tensors) == cache.nbytes == codes + window


def test_nearly_twice_the_context():
    """Sizes alone, in float16, heads of 128: 1.88 times the tokens in the same memory, window and all."""
    like = torch.empty(0, dtype=torch.float16, device="meta")
    full = KVCache(1, 8, 128, 32_000, like)
    ours = QuantizedCache(1, 8, 128, int(1.88 * 32_000), like, INT8)
    assert ours.nbytes <= full.k.nbytes + full.v.nbytes


# ---- attention ----

EVERYTHING = torch.ones(1, dtype=torch.bool)


def old_texts(form, n=3, w=5, D=16, seed=0, size=None):
    """A cache with n closed groups and w tokens behind them, in float32, loud in one channel and in its first
    group; and the floats that were put in."""
    S = n * form.group + w
    k, v = (drawn(2, 2, S, D, seed=seed + i, dtype=torch.float32) for i in (0, 1))
    k[:, :, : form.group] *= 10
    k[..., 3] *= 5
    cache = QuantizedCache(2, 2, D, size or S + 9, k, form)
    cache.update(k, v, torch.arange(S))
    assert (cache.closed, cache.length) == (n, S)
    return cache, (k, v)


KINDS = [Format(8, 8, 5), Format(8, 16, 5), Format(4, 8, 5), Format(2, 16, 5)]


@pytest.mark.exercise("scores")
@pytest.mark.parametrize("form", KINDS, ids=str)
@pytest.mark.parametrize("H", [2, 6])
def test_scores_are_those_of_the_floats(form, H):
    cache, _ = old_texts(form)
    k, _ = floats(*cache.past)
    q = drawn(2, 2, H // 2, 16, seed=7, dtype=torch.float32)
    for n in (1, 3):  # there may be more groups than are filled
        want = q.double() @ k[:, :, : n * form.group].double().transpose(-2, -1)
        close(scores(q, cache.keys, n), want, f"{n} groups, {H} heads over 2", rtol=1e-5, atol=1e-4)


@pytest.mark.exercise("read")
@pytest.mark.parametrize("form", KINDS, ids=str)
@pytest.mark.parametrize("H", [2, 6])
def test_matches_attention_over_the_floats(form, H):
    """As attention in float64, written out, over what the codes stand for and the window."""
    cache, _ = old_texts(form)
    q = drawn(2, H, 1, 16, seed=7, dtype=torch.float32)
    want = reference(q, *floats(*cache.past), EVERYTHING)
    close(read(q, cache), want, f"{H} heads over 2", rtol=1e-4, atol=1e-5)
    close(with_floats(q, *cache.past), want, "the naive way", rtol=1e-4, atol=1e-5)


@pytest.mark.exercise("read")
@given(form=st.sampled_from(KINDS), seed=st.integers(0, 50))
@EXAMPLES
def test_within_the_bound_that_the_scales_give(form, seed):
    """Scores can be off by d = sum |q| · (half a step) / √D, weights by a factor of exp(2 d), values by
    half a step: so far, and no further, is the answer from that of the full cache."""
    cache, exact = old_texts(form, seed=seed)
    q = 0.1 * drawn(2, 4, 1, 16, seed=seed + 9, dtype=torch.float32)
    keys, values = (rows.bound for rows in cache.past[:2])  # (B, K, n, D, 1), (B, K, S, C, 1)
    size = q.double().abs().squeeze(2).unflatten(1, (2, 2))  # (B, K, g, D)
    d = (size.unsqueeze(2) @ keys).amax((2, 4)).flatten(1) / 4  # (B, H), √16 = 4
    p = reference(q, exact[0], exact[1].abs(), EVERYTHING)  # sum p |v|
    step = values.amax((2, 3, 4)).repeat_interleave(2, 1)  # (B, H)
    bound = step[..., None, None] + (torch.exp(2 * d) - 1)[..., None, None] * p
    off = (read(q, cache) - reference(q, *exact, EVERYTHING)).abs()
    assert (off <= bound + 1e-5).all() and off.max() > 1e-5


@pytest.mark.exercise("integer_scores")
def test_whole_numbers_are_multiplied_exactly():
    """By hand, at the largest codes: no sum overflows, and each group has its own unit."""
    k = torch.zeros(1, 1, 2, 128, 4)
    k[..., 1:] = 255.0
    k[:, :, 1] *= 4
    q = torch.full((1, 1, 1, 128), -3.0)
    want = [0.0] + [-128 * 3 * 255.0] * 3 + [0.0] + [-128 * 3 * 4 * 255.0] * 3
    assert integer_scores(q, quantize(k, 8), 2).flatten().tolist() == pytest.approx(want)


@pytest.mark.exercise("integer_scores")
@pytest.mark.parametrize("form", KINDS, ids=str)
def test_whole_numbers_are_within_half_a_unit(form):
    """Each channel's product is off by half a unit of its own group at most; in sum as in float64."""
    cache, _ = old_texts(form)
    q, (keys, *_) = drawn(2, 2, 3, 16, seed=7, dtype=torch.float32), cache.past
    codes, right = unpack(keys.codes, form.bits).double(), scores(q, cache.keys, 3).double()
    own = q.double().unsqueeze(2) * keys.scale.double().transpose(-2, -1)  # (B, K, n, g, D)
    unit = own.abs().amax(-1, keepdim=True) / 127  # (B, K, n, g, 1)
    bound = (unit / 2 * codes.sum(-2, keepdim=True)).transpose(2, 3).flatten(-2)
    off = (integer_scores(q, cache.keys, 3) - right).abs()
    assert (off <= bound + 1e-3).all() and off.max() > 1e-3


# ---- compiled, for a GPU ----


@pytest.mark.slow  # seconds to trace
@pytest.mark.parametrize("form", KINDS[1:], ids=str)
def test_compiled_is_the_same(form):
    """The graph that a compiler gets, run without one: the same answers, at other lengths too."""
    fast = torch.compile(with_floats, dynamic=True, fullgraph=True, backend="aot_eager")
    for n, w in ((3, 5), (4, 6)):
        cache, _ = old_texts(form, n, w)
        q = drawn(2, 4, 1, 16, seed=7, dtype=torch.float32)
        close(fast(q, *cache.past), read(q, cache), f"{n} groups", rtol=1e-4, atol=1e-5)


# ---- at the seam ----


def test_attend_keeps_its_contract():
    """With the core's caches, masks and without: it is the core's."""
    check_attend(attend)


FAST = {"codes": attend, "whole numbers": reading(functools.partial(read, product=integer_scores)),
        "floats": reading(lambda q, cache: with_floats(q, *cache.past)),
        "compiled": compiled(backend="aot_eager")}  # fmt: skip


@pytest.mark.parametrize("name", [*list(FAST)[:3], pytest.param("compiled", marks=pytest.mark.slow)])
def test_attends_agree(name):
    """Token by token through the cache: by `update`, and each fast way, the same but for the last digits."""
    form, fn = Format(8, 8, 6), FAST[name]
    draw = functools.partial(drawn, dtype=torch.float32)
    q, k, v = draw(2, 4, 40, 16, seed=3), draw(2, 2, 40, 16), draw(2, 2, 40, 16, seed=1)
    cache, other = (QuantizedCache(2, 2, 16, 40, q, form) for _ in range(2))
    for start, end in ((0, 30), *((i, i + 1) for i in range(30, 40))):
        at, where = slice(start, end), torch.arange(start, end)
        got = fn(q[:, :, at], k[:, :, at], v[:, :, at], positions=where, cache=cache)
        want = core(q[:, :, at], k[:, :, at], v[:, :, at], positions=where, cache=other)
        close(got, want, f"from {start} on", rtol=0, atol=0.02 if name == "whole numbers" else 1e-5)
    assert cache.length == 40 and torch.equal(cache.keys.table, other.keys.table)


@torch.no_grad()
def test_is_on(monkeypatch):
    """Decoding reads codes: where that raises, so does it. Logits are near the full cache's, not equal."""
    tokens, logits = torch.tensor([[(3 + 2 * i) % 32 for i in range(30)]]), []
    quick = set_attend(copy.deepcopy(model()).float(), attend)
    for mine in ([Cache() for _ in quick.blocks], caches(Format(4, 8, 4), of=quick)):
        for part in tokens.split((20, *[1] * 10), 1):
            last = quick(part, caches=mine)[:, -1]
        logits.append(last)
    assert 1e-4 < (logits[0] - logits[1]).abs().max() < 3 and logits[0].argmax() == logits[1].argmax()
    assert all(cache.closed == 3 for cache in mine)

    def broken(*args):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(kv_quant, "sums", broken)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        quick(tokens[:, :1], caches=mine)


@torch.no_grad()
def test_gradients_and_other_types_take_the_long_way():
    """What bags of codes cannot do is done by floats: float64, bfloat16, a query that wants gradients."""
    form = Format(8, 8, 4)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        cache, k, v, _ = filled(form, [20], size=30, dtype=dtype)
        q = drawn(2, 4, 1, 16, dtype=dtype).requires_grad_(dtype == torch.float32)
        with torch.enable_grad():
            y = attend(q, k[:, :, :1], v[:, :, :1], positions=torch.tensor([20]), cache=cache)
        assert y.dtype == dtype and y.requires_grad == q.requires_grad and cache.length == 21


def test_the_same_tokens_at_8_bits():
    """On a trained model, whose argmax is clear; and with a window as long as the text, whatever the bits."""
    tokens = torch.tensor([[5, 7, 9, 11], [1, 2, 3, 4]])
    want = decode(model(), tokens, 30, caches_for(model(), KVCache, 2, 40))
    quick = set_attend(copy.deepcopy(model()).float(), attend)
    for form in (Format(8, 8, 4), Format(2, 16, 40)):
        assert torch.equal(decode(model(), tokens, 30, caches(form, 40, 2)), want)
        assert torch.equal(decode(quick, tokens, 30, caches(form, 40, 2, quick)), want)


# ---- what is refused ----


def test_wrong_use_raises():
    """Lengths and positions that cannot be right are refused, and leave the cache as it was."""
    cache, k, v, _ = filled(Format(8, 4, 2), [9], size=12)

    def update(n=1, positions=(9,), B=2, K=2):
        return cache.update(k[:B, :K, :n], v[:B, :K, :n], torch.tensor(positions))

    wrong = [({"positions": (3,)}, "positions from 3 on, but the cache stands at 9"),
             ({"positions": ((9,), (9,))}, "QuantizedStore"), ({"B": 1}, "other rows"), ({"K": 1}, "heads"),
             ({"n": 4, "positions": (9, 10, 11, 12)}, "do not fit into 12")]  # fmt: skip
    for use, message in wrong:
        with pytest.raises(UserError, match=message):
            update(**use)
        assert cache.length == 9
    for n in (-1, 10):
        with pytest.raises(UserError, match="can only go back"):
            cache.length = n
    with pytest.raises(UserError, match="does not divide the 16 channels"):
        QuantizedCache(1, 2, 16, 8, form=Format(8, 12))


def test_a_nan_is_not_hidden_by_rounding():
    """A NaN among the old keys makes the answer NaN, as with a full cache."""
    k, v = drawn(1, 1, 24, 16, dtype=torch.float32), drawn(1, 1, 24, 16, dtype=torch.float32)
    k[0, 0, 3, 5] = math.nan
    cache = QuantizedCache(1, 1, 16, 24, k, Format(4, 8, 4))
    cache.update(k, v, torch.arange(24))
    assert cache.closed == 2 and read(torch.ones(1, 2, 1, 16), cache).isnan().all()
