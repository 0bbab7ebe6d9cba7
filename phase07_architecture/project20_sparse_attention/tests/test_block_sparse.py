"""The pieces hold every pair once; attention over them is masked dense attention, in models and caches."""

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.generate import Sampling
from common.model import GPT, Cache, attend, set_attend
from common.profiling import peak_of
from common.testing import AddressedCache, check_attend, close, tiny, trained
from common.trial import unplugged
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode
from phase03_core_inference.project08_kv_cache.window import windowed
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore
from phase07_architecture.project20_sparse_attention import block_sparse, patterns
from phase07_architecture.project20_sparse_attention.block_sparse import pieces, scores, sparse

ALL = {
    "causal": patterns.causal(), "window": patterns.window(5), "dilated": patterns.window(3, 4),
    "sinks": patterns.sinks(4, 2), "longformer": patterns.longformer(4, (0, 13)),
    "longformer, dilated": patterns.longformer(3, (2,), 3), "bigbird": patterns.bigbird(4, 2, 1, 2),
    "fixed": patterns.fixed(6, 2), "strided": patterns.strided(5),
}  # fmt: skip


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def qkv(B, H, K, T, D, S=None, dtype=torch.float64):
    q, S = draw(B, H, T, D, seed=1, dtype=dtype), T if S is None else S
    return q, *(draw(B, K, S, D, seed=i, dtype=dtype) for i in (2, 3))


def look(pattern, T, S=None, first=0):
    return pattern.look(torch.arange(first, first + T)[:, None], torch.arange(S or T))


def sdpa(q, k, v, mask):
    """torch's attention with the pattern written out."""
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


# ---- pieces ----

def counted(pattern, positions, S, **sizes):
    """How often each pair is asked for, (T, S)."""
    found = torch.zeros(len(positions), S, dtype=torch.int)
    for rows, keys, seen in pieces(pattern, positions, **sizes):
        assert seen.shape == (len(rows), len(keys)) and seen.dtype == torch.bool
        assert 1 <= len(rows) <= sizes["tile"] and 1 <= len(keys) <= sizes["chunk"]
        found[rows[:, None].long(), keys[None].long()] += seen.int()
    return found


@pytest.mark.exercise("pieces")
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("tile", "chunk"), [(8, 16), (1, 3), (64, 64)], ids=str)
def test_every_pair_is_in_exactly_one_piece(name, tile, chunk):
    """Of 41 queries, which no tile divides: what the rule allows once, and nothing else."""
    got = counted(ALL[name], torch.arange(41, dtype=torch.int32), 41, tile=tile, chunk=chunk)
    assert torch.equal(got, look(ALL[name], 41).int())


@pytest.mark.exercise("pieces")
@pytest.mark.parametrize("positions", [[30], [7, 8, 9, 10, 11], [5, 6, 7, 7, 7], [17, 18, 40]], ids=str)
def test_queries_that_stand_anywhere(positions):
    """The next token, a chunk, a row padded by its last token, as the engine of project 12 has them."""
    for name, pattern in ALL.items():
        got = counted(pattern, torch.tensor(positions, dtype=torch.int32), 41, tile=4, chunk=64)
        want = pattern.look(torch.tensor(positions)[:, None], torch.arange(41))
        assert torch.equal(got, want.int()), name


@pytest.mark.exercise("pieces")
def test_queries_a_step_apart_are_put_together():
    """The far columns of the strided pattern: what is computed is what is asked for, but for the edge."""
    asked = computed = 0
    far, positions = patterns.pattern(patterns.Near(None, 8)), torch.arange(128, dtype=torch.int32)
    for rows, keys, seen in pieces(far, positions):
        assert len(set((rows % 8).tolist())) == len(set((keys % 8).tolist())) == 1
        asked, computed = asked + int(seen.sum()), computed + seen.numel()
    assert asked == sum(t // 8 + 1 for t in range(128)) and computed < 2 * asked


@pytest.mark.exercise("pieces")
def test_work_grows_with_the_pattern_and_not_with_the_square():
    """Pairs computed for a window: a tile's worth more than the window, for every query."""
    for T in (256, 1024):
        positions = torch.arange(T, dtype=torch.int32)
        computed = sum(seen.numel() for _, _, seen in pieces(patterns.window(32), positions, tile=32))
        assert computed <= T * 64


@pytest.mark.exercise("scores")
def test_scores_of_a_piece():
    """Two heads of a group, three queries, four keys: hidden from both alike, and q times k elsewhere."""
    tile, keys = draw(1, 2, 6, 8), draw(1, 2, 4, 8, seed=1)
    seen = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    got = scores(tile, keys, seen)
    want = (tile @ keys.mT).view(1, 2, 2, 3, 4)
    torch.testing.assert_close(got.view(1, 2, 2, 3, 4)[..., seen], want[..., seen])
    assert got.view(1, 2, 2, 3, 4)[..., ~seen].eq(-torch.inf).all()
    torch.testing.assert_close(scores(tile, keys, torch.ones(3, 4).bool()), tile @ keys.mT)


# ---- the whole ----

@pytest.mark.exercise("pieces", "scores")
@pytest.mark.parametrize("name", ALL)
def test_matches_masked_sdpa(name):
    """Forward and the three gradients, heads in groups, against torch with the mask written out."""
    inputs = [x.requires_grad_() for x in qkv(2, 4, 2, 41, 8)]
    got = sparse(ALL[name], tile=8)(*inputs, positions=torch.arange(41))
    want = sdpa(*inputs, look(ALL[name], 41))
    weight = draw(*want.shape, seed=9)
    torch.testing.assert_close(got, want)
    for mine, true in zip(*(torch.autograd.grad(y, inputs, weight) for y in (got, want)), strict=True):
        torch.testing.assert_close(mine, true)


def test_matches_the_text():
    """`masked`, which stands at the top of the file, in float32: 1e-5."""
    q, k, v = qkv(1, 2, 1, 300, 16, dtype=torch.float32)
    for name, pattern in ALL.items():
        want = block_sparse.masked(q, k, v, pattern, torch.arange(300))
        close(sparse(pattern)(q, k, v, positions=torch.arange(300)), want, name, rtol=0.0, atol=1e-5)


def test_matches_flex_attention():
    """torch's own sparse attention, given the same rule."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    q, k, v = qkv(1, 2, 2, 128, 16, dtype=torch.float32)
    for name in ("window", "fixed", "strided"):
        blocks = create_block_mask(lambda b, h, t, s, n=name: ALL[n].look(t, s), None, None, 128, 128,
                                   device="cpu", BLOCK_SIZE=32)  # fmt: skip
        want = flex_attention(q, k, v, block_mask=blocks)
        close(sparse(ALL[name])(q, k, v, positions=torch.arange(128)), want, name)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_any_window_and_any_tile(T, width, step, tile, rooted):
    """Windows longer than the text, tiles of one query, steps longer than the text."""
    pattern = patterns.longformer(width, (0,), step) if rooted else patterns.window(width, step)
    inputs = qkv(1, 1, 1, T, 4)
    got = sparse(pattern, tile=tile)(*inputs, positions=torch.arange(T))
    torch.testing.assert_close(got, sdpa(*inputs, look(pattern, T)))


# ---- the contract ----

def test_attend_keeps_its_contract():
    """All that the house asks of an attend, masks and caches and ragged rows: dense, and a window."""
    check_attend(sparse(patterns.causal(), tile=4))
    near = functools.partial(torch.where, input=torch.tensor(0.0), other=torch.tensor(-torch.inf))
    check_attend(sparse(patterns.window(4), tile=4), bias=lambda behind: near(behind < 4))


def test_in_caches_and_in_ragged_rows():
    """Patterns that count from the start of the text: in chunks, token by token, rows at two places."""
    q, k, v = qkv(2, 2, 1, 24, 8)
    for name, pattern in ALL.items():
        want, fn, cache = sdpa(q, k, v, look(pattern, 24)), sparse(pattern, tile=4), Cache()
        for start, stop in ((0, 9), (9, 10), (10, 21), (21, 24)):
            part = [x[:, :, start:stop] for x in (q, k, v)]
            got = fn(*part, positions=torch.arange(start, stop), cache=cache)
            torch.testing.assert_close(got, want[:, :, start:stop], msg=lambda m, n=name: f"{n}: {m}")
        cache = AddressedCache(2, 1, 8, 32, torch.float64)
        cache.k[:, :, :12], cache.v[:, :, :12] = k[:, :, :12], v[:, :, :12]
        places = torch.tensor([[5, 6, 7], [11, 12, 13]])
        rows = [x.gather(2, places[:, None, :, None].expand(2, x.size(1), 3, 8)) for x in (q, k, v)]
        got = fn(*rows, positions=places, cache=cache)
        torch.testing.assert_close(got, want.gather(2, places[:, None, :, None].expand(2, 2, 3, 8)))


def test_empty_and_strange_input():
    """No token at all gives none; positions that jump want a mask; heads that do not divide are refused."""
    fn = sparse(patterns.fixed(4))
    assert fn(*qkv(1, 2, 1, 0, 8, S=0), positions=torch.arange(0)).shape == (1, 2, 0, 8)
    with pytest.raises(UserError, match="give a mask"):
        fn(*qkv(1, 2, 1, 6, 8), positions=torch.tensor([0, 1, 2, 0, 1, 2]))
    with pytest.raises(UserError, match="4 query heads do not divide among 3"):
        fn(*qkv(1, 4, 3, 6, 8), positions=torch.arange(6))


def test_16_bit_and_autocast():
    """bfloat16 in, bfloat16 out, summed in float32 between, also where autocast would make it 16-bit."""
    inputs = qkv(1, 2, 1, 70, 16, dtype=torch.bfloat16)
    want = sdpa(*(x.double() for x in inputs), look(patterns.window(9), 70))
    with torch.autocast("cpu", torch.bfloat16):
        got = sparse(patterns.window(9))(*inputs, positions=torch.arange(70))
    assert got.dtype == torch.bfloat16
    close(got, want, "bfloat16", rtol=0.0, atol=0.01 * want.abs().max().item())


def test_memory_grows_with_the_length():
    """Four times the tokens, about four times the bytes; the matrix would take sixteen times as many."""
    fn, held = sparse(patterns.fixed(32)), []
    for T in (512, 2048):
        q, k, v = qkv(1, 1, 1, T, 16, dtype=torch.float32)
        held.append(peak_of(lambda q=q, k=k, v=v, T=T: fn(q, k, v, positions=torch.arange(T)), q.device))
    assert held[1] < 6 * held[0] and held[1] < 4 * 2048 * 2048 / 4


# ---- in a model ----

def test_is_on():
    """The model calls the technique: where that raises, so does the model; a narrow window is not causal."""
    model, tokens = GPT(tiny()).eval(), torch.arange(30)[None]
    with unplugged(block_sparse.pieces):
        set_attend(model, sparse(patterns.causal()))(tokens)
    plain = set_attend(model, attend)(tokens)
    close(set_attend(model, sparse(patterns.causal()))(tokens), plain, "dense")
    assert (set_attend(model, sparse(patterns.window(3)))(tokens) - plain).abs().max() > 1e-3


def test_matches_the_window_of_project_8_in_training():
    """Loss and gradients of a model with windows, ours and those that project 8 masks."""
    torch.manual_seed(0)
    model, tokens, found = GPT(tiny()), torch.randint(97, (2, 23)), []
    for fn in (sparse(patterns.window(6), tile=8), windowed(6)):
        loss = F.cross_entropy(set_attend(model, fn)(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for mine, true in zip(*found, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def counts():
    return trained(steps=20)


@pytest.mark.parametrize("name", ["sinks", "longformer", "bigbird", "fixed", "strided"])
def test_decodes_as_it_reads(name, counts):
    """Token for token: everything anew for each token, with a cache, and in the engine of project 12."""
    model, prompts = set_attend(counts, sparse(ALL[name])), [[3, 5, 7, 9, 11, 13], [20, 19, 18]]
    want = [decode(model, torch.tensor([ids]), 12)[0].tolist() for ids in prompts]
    cached = [decode(model, torch.tensor([ids]), 12, caches_for(model, KVCache, 1, 30))[0].tolist()
              for ids in prompts]  # fmt: skip

    engine = Engine(model, SlotStore(model, 2, 40), max_batch=2, max_step_tokens=4)
    served = [list(a.ids) for a in engine.generate(prompts, Sampling(max_tokens=12, temperature=0.0))]
    assert cached == want and served == want
