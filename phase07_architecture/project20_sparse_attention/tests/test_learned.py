"""The choice of blocks: against a loop, never by what comes later; attention over it against torch's."""

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT, Cache, attend, set_attend
from common.testing import AddressedCache, check_attend, close, tiny, trained
from common.trial import unplugged
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode
from phase07_architecture.project20_sparse_attention import learned
from phase07_architecture.project20_sparse_attention.learned import choose, means, readers, route, routed


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def qkv(B=2, H=4, K=2, T=30, D=8, **more):
    return draw(B, H, T, D, seed=1, **more), *(draw(B, K, T, D, seed=i, **more) for i in (2, 3))


def by_loop(q, k, block, top):
    """(B, H, T, blocks) bool, query by query, as the words have it."""
    (B, H, T, _), K = q.shape, k.size(1)
    found = torch.zeros(B, H, T, k.size(2) // block + 1, dtype=torch.bool)
    for b in range(B):
        for h in range(H):
            keys = k[b, h // (H // K)]
            for t in range(T):
                fits = [(float(q[b, h, t].detach() @ keys[i * block : (i + 1) * block].detach().mean(0)), i)
                        for i in range(t // block)]  # fmt: skip
                for i in [t // block, *(i for _, i in sorted(fits, reverse=True)[: top - 1])]:
                    found[b, h, t, i] = True
    return found


def written_out(q, k, v, chosen, block):
    T = q.size(2)
    look = chosen.repeat_interleave(block, -1)[..., :T] & torch.ones(T, T, dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, look, enable_gqa=True)


@pytest.mark.exercise("means")
def test_mean_keys_of_whole_blocks():
    """Four whole blocks of seven in 30 keys; the two that are left over have no mean."""
    k = qkv()[1]
    got = means(k, 7)
    assert got.shape == (2, 2, 4, 8)
    torch.testing.assert_close(got[1, 0, 2], k[1, 0, 14:21].mean(0))
    torch.testing.assert_close(got[0, 1, 3], k[0, 1, 21:28].mean(0))
    assert means(k[:, :, :5], 7).shape == (2, 2, 0, 8)


@pytest.mark.exercise("route")
@pytest.mark.parametrize(("block", "top"), [(5, 3), (7, 2), (4, 1), (6, 99), (50, 3)], ids=str)
def test_route_matches_a_loop(block, top):
    """The own block and the best before it; a top of 1 and of all; a block longer than the text."""
    q, k, _ = qkv()
    centres = torch.stack([k[:, :, i * block : (i + 1) * block].mean(2) for i in range(30 // block)], 2) \
        if 30 // block else k[:, :, :0]  # fmt: skip
    got = route(q, centres, torch.arange(30)[None], block, top)
    assert torch.equal(got, by_loop(q, k, block, top))


@pytest.mark.exercise("route")
def test_route_of_rows_at_different_places():
    """What lies beyond a row's own place counts for nothing, be it junk or not a number at all."""
    q, k, _ = qkv(T=32)
    want, slots = by_loop(q, k, 4, 3), torch.tensor([[9], [17]])
    centres = k.unflatten(2, (8, 4)).mean(3)
    centres[0, :, 3:], centres[1, :, 5:] = float("nan"), 1e9
    got = route(torch.stack([q[0, :, 9:10], q[1, :, 17:18]]), centres, slots, 4, 3)
    assert torch.equal(got[0, :, 0], want[0, :, 9]) and torch.equal(got[1, :, 0], want[1, :, 17])


def test_the_choice_does_not_depend_on_what_comes_later():
    """Other tokens from 17 on: the same blocks for all queries before it."""
    q, k, _ = qkv()
    before = choose(q, k, torch.arange(30)[None], 4, 3)
    q[:, :, 17:], k[:, :, 17:] = draw(2, 4, 13, 8, seed=8), draw(2, 2, 13, 8, seed=9)
    after = choose(q, k, torch.arange(30)[None], 4, 3)
    assert torch.equal(before[:, :, :17], after[:, :, :17]) and not torch.equal(before, after)


@pytest.mark.exercise("readers")
@pytest.mark.parametrize("chunk", [1000, 5])
def test_every_choice_is_in_exactly_one_piece(chunk):
    """Of two rows and two key heads laid end to end: query, key and who sees whom."""
    q, k, _ = qkv(T=22)
    chosen = by_loop(q, k, 5, 2).unflatten(1, (2, 2))  # (B, K, G, T, blocks)
    found = torch.zeros(2 * 2 * 2 * 22, 2 * 2 * 22, dtype=torch.int)
    for rows, keys, look in readers(chosen, torch.arange(22)[None], 5, 22, chunk):
        assert 1 <= len(rows) <= chunk and 1 <= len(keys) <= 5 and look.shape == (len(rows), len(keys))
        found[rows[:, None], keys] += look.int()
    causal = torch.ones(22, 22, dtype=torch.bool).tril()
    want = torch.zeros(2, 2, 2, 22, 2, 2, 22, dtype=torch.int)
    for b in range(2):
        for key_head in range(2):
            look = chosen[b, key_head].repeat_interleave(5, -1)[..., :22] & causal
            want[b, key_head, :, :, b, key_head] = look.int()
    assert torch.equal(found, want.flatten(4).flatten(0, 3))


@pytest.mark.exercise("means", "route", "readers")
def test_matches_masked_sdpa():
    """Forward and gradients: torch's attention with the choice written out."""
    inputs = [x.requires_grad_() for x in qkv()]
    got = routed(4, 3)(*inputs, positions=torch.arange(30))
    want = written_out(*inputs, by_loop(*inputs[:2], 4, 3), 4)
    weight = draw(*want.shape, seed=7)
    torch.testing.assert_close(got, want)
    for mine, true in zip(*(torch.autograd.grad(y, inputs, weight) for y in (got, want)), strict=True):
        torch.testing.assert_close(mine, true)


def test_attend_keeps_its_contract():
    """With room for all blocks it is causal attention, whatever is asked: masks, caches, ragged rows."""
    check_attend(routed(4, 100))


def test_in_caches():
    """Chunk by chunk, and token by token at different places with junk behind: as all at once."""
    q, k, v = qkv(T=24)
    want, fn, cache = written_out(q, k, v, by_loop(q, k, 4, 3), 4), routed(4, 3), Cache()
    for start, stop in ((0, 9), (9, 10), (10, 24)):
        part = [x[:, :, start:stop] for x in (q, k, v)]
        got = fn(*part, positions=torch.arange(start, stop), cache=cache)
        close(got, want[:, :, start:stop], f"tokens {start} to {stop}")
    cache, places = AddressedCache(2, 2, 8, 30, torch.float64), torch.tensor([[11], [19]])
    cache.k[:, :, :19], cache.v[:, :, :19] = k[:, :, :19], v[:, :, :19]
    rows = [x.gather(2, places[:, None, :, None].expand(2, x.size(1), 1, 8)) for x in (q, k, v)]
    got = fn(*rows, positions=places, cache=cache)
    close(got, want.gather(2, places[:, None, :, None].expand(2, 4, 1, 8)), "rows at different places")


def test_finds_what_a_window_has_lost():
    """A block far back whose keys fit the last query: routing reads it, the own block alone does not."""
    q, k, v = qkv(1, 1, 1, 64, 16)
    k[0, 0, 8:12] = k[0, 0, 9] + 0.1 * k[0, 0, 8:12]
    q[0, 0, -1] = 8 * k[0, 0, 9]
    full = F.scaled_dot_product_attention(q, k, v, is_causal=True)[0, 0, -1]
    near = routed(4, 4)(q, k, v, positions=torch.arange(64))[0, 0, -1]
    own = routed(4, 1)(q, k, v, positions=torch.arange(64))[0, 0, -1]
    assert (near - full).norm() < 0.2 * (own - full).norm()


def test_is_on():
    """The model calls the choice and the pieces; and fewer blocks give other logits."""
    model, tokens = GPT(tiny()).eval(), torch.arange(40)[None]
    plain = model(tokens)
    set_attend(model, routed(4, 2))
    assert (model(tokens) - plain).abs().max() > 1e-3
    for function in (learned.route, learned.readers):
        with unplugged(function):
            model(tokens)
    close(set_attend(model, attend)(tokens), plain, "unplugged")


def test_decodes_as_it_reads():
    """Token for token with a cache and without."""
    model, tokens = set_attend(trained(steps=20), routed(4, 2)), torch.tensor([[3, 5, 7, 9, 11, 13]])
    caches = caches_for(model, KVCache, 1, 30)
    assert torch.equal(decode(model, tokens, 14), decode(model, tokens, 14, caches))


def test_mistakes_of_a_user():
    with pytest.raises(UserError, match="block 0 and top 2"):
        routed(0, 2)
    with pytest.raises(UserError, match="4 query heads do not divide among 3"):
        routed(4, 2)(*qkv(K=3), positions=torch.arange(30))
