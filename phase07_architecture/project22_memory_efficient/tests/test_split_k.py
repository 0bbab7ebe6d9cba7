"""Shares of the keys: how many, what each worker gets, that nothing is copied, the merge, in the model."""

import functools

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT, Cache, set_attend
from common.profiling import peak_of
from common.testing import AddressedCache, check_attend, close, reference, tiny, trained
from phase03_core_inference.project08_kv_cache.kv_cache import (
    KVCache,
    StaticCache,
    caches_for,
    decode,
    decode_ragged,
)
from phase07_architecture.project22_memory_efficient import _sides, chunked, parts, split_k


def qkv(B, H, K, T, S, D, dtype=torch.float64):
    return _sides.inputs(B, H, K, T, S, D, dtype=dtype)


def seen(*rows):
    """reach (B or 1, T)"""
    return torch.tensor(rows)


@pytest.fixture
def shares(monkeypatch):
    """The keys that each `part` was given, as they were asked for: [(how many, where in memory)]."""
    found, part = [], parts.part

    def noting(q, k, v, look=None):
        found.append((k.size(2), k.data_ptr()))
        return part(q, k, v, look)

    monkeypatch.setattr(split_k, "part", noting)
    return found


# ---- how many ----


@pytest.mark.exercise("how_many")
def test_enough_to_keep_all_at_work():
    """One row and one head: a share for each worker. More pieces than workers: no split at all."""
    assert split_k.how_many(1, 100, 2) == 2
    assert split_k.how_many(1, 1000, 8) == 8
    assert split_k.how_many(8, 1000, 8) == split_k.how_many(64, 1000, 8) == 1
    assert split_k.how_many(4, 1000, 8) == 2


@pytest.mark.exercise("how_many")
def test_waves_that_are_nearly_full_will_do():
    """8 heads on 132 workers: 16 shares keep 128 of them busy, for 64 blocks; no n needs less than 63."""
    assert split_k.how_many(8, 1024, 132) == 16
    assert split_k.how_many(100, 1000, 132) == 9  # 7 waves of 112; the best n takes 759
    assert split_k.how_many(3, 60, 4) == 4  # 3 waves of 15; one wave would be 60


@pytest.mark.exercise("how_many")
def test_never_more_shares_than_blocks():
    """A short row is not worth a split, and an empty one no division by nothing."""
    assert [split_k.how_many(1, blocks, 8) for blocks in (0, 1, 2, 3, 8)] == [1, 1, 2, 3, 8]


# ---- shares ----


@pytest.mark.exercise("split")
@pytest.mark.parametrize("splits", [1, 2, 5, 30, 99])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)], ids=str)
def test_matches_sdpa(heads, splits):
    """One query, thirty keys, in any number of shares, more than there are keys too: torch's answer."""
    q, k, v = qkv(2, *heads, 1, 30, 6)
    y = split_k.split(q, k, v, seen([30]), splits=splits, threads=1)
    close(y, F.scaled_dot_product_attention(q, k, v, enable_gqa=True), f"{splits} shares")


@pytest.mark.exercise("split")
def test_the_error_in_float32_is_that_of_one_sum():
    """4,000 keys in 1 to 16 shares, float32 beside float64: never more than 1e-6 off."""
    for sharp in (1.0, 2.0):
        q, k, v = qkv(1, 4, 2, 1, 4000, 64, torch.float32)
        want = reference(sharp * q, k, v, torch.ones(1, 4000).bool())
        for splits in (1, 2, 7, 16):
            y = split_k.split(sharp * q, k, v, seen([4000]), splits=splits, threads=1)
            assert (y - want).abs().max() < 1e-6


@pytest.mark.exercise("split")
def test_rows_at_different_places_and_masks():
    """Two queries each, at 29, 30 and at 8, 9: junk beyond is never looked at; the same as a mask."""
    q, k, v = qkv(2, 4, 2, 2, 40, 4)
    reach = seen([29, 30], [8, 9])
    look = torch.arange(40) < reach[:, None, :, None]
    want = reference(q, k, v, look)
    k[:, :, 30:], v[:, :, 30:] = 1e3, 1e3
    for splits in (1, 3, 4):
        close(split_k.split(q, k, v, reach, splits=splits, threads=1), want, f"{splits} shares")
        close(split_k.split(q, k, v, None, look, splits=splits, threads=1), want, f"{splits}, mask")


@pytest.mark.exercise("split")
def test_shares_are_alike_and_not_copied(shares):
    """Ten keys of a longer cache for three workers: 4, 4 and 2 of those that are seen, where they lie."""
    q, k, v = qkv(1, 4, 2, 1, 16, 4)
    split_k.split(q, k, v, seen([10]), splits=3, threads=1)
    step = k.element_size() * k.size(3)
    assert shares == [(n, k.data_ptr() + i * step) for i, n in ((0, 4), (4, 4), (8, 2))]


@pytest.mark.exercise("split")
def test_shares_are_counted_by_workers(shares, monkeypatch):
    """Without a number: one for each worker, where there is enough to share."""
    monkeypatch.setattr(split_k, "BLOCK", 10)
    q, k, v = qkv(1, 2, 1, 1, 40, 4)
    for threads, sizes in ((1, [40]), (2, [20, 20]), (4, [10] * 4), (8, [10] * 4)):
        shares.clear()
        split_k.split(q, k, v, seen([40]), threads=threads)
        assert sorted(n for n, _ in shares) == sizes


@pytest.mark.exercise("split")
def test_keys_are_never_repeated():
    """Eight query heads over one key head, 16-bit keys too: a step needs less memory than its cache."""
    q, k, v = qkv(1, 8, 1, 1, 4096, 64, torch.float32)

    def peak(*given):
        return peak_of(lambda: split_k.split(*given, seen([4096]), splits=8, threads=1), torch.device("cpu"))

    assert peak(q, k, v) < k.nbytes / 2
    assert peak(q.bfloat16(), k.bfloat16(), v.bfloat16()) < k.nbytes / 2  # converted share by share


# ---- workers ----


def test_threads_give_what_one_gives():
    """In order, without gradients, and the caller's own number of threads is left as it was."""
    before = torch.get_num_threads()
    q, k, v = qkv(1, 4, 1, 1, 64, 8)
    one = split_k.split(q, k, v, seen([64]), splits=5, threads=1)
    with torch.inference_mode():
        two = split_k.split(q, k, v, seen([64]), splits=5, threads=2)
    assert torch.equal(one, two) and torch.get_num_threads() == before
    wide = split_k.in_parallel([lambda i=i: (i, torch.get_num_threads(), torch.is_grad_enabled())
                                for i in range(5)], 2)  # fmt: skip
    assert wide == [(i, 1, False) for i in range(5)]


def test_a_worker_that_fails_is_heard():
    with pytest.raises(ZeroDivisionError):
        split_k.in_parallel([lambda: 1, lambda: 1 / 0], 2)


def test_unsplit_is_a_piece_a_head():
    """The bench's other side computes the same."""
    q, k, v = qkv(2, 4, 2, 1, 20, 4)
    want = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    for name, call in _sides.steps_of(q, k, v, threads=2).items():
        close(call(), want, name)


# ---- at the seam ----


def test_attend_keeps_its_contract():
    """All that is asked of an attend; and again in three shares by two workers."""
    check_attend(split_k.attend)
    with torch.no_grad():
        check_attend(functools.partial(split_k.attend, splits=3, threads=2), gradients=False)


def test_what_is_split_and_what_is_not():
    """Few queries without gradients are; a prompt, a batch to learn from, and no query at all are not."""
    q, k, v = qkv(1, 2, 1, 1, 4, 4)
    assert split_k.suits(q, k, v) and not split_k.suits(q[:, :, :0], k, v)
    assert not split_k.suits(q.expand(-1, -1, split_k.FEW + 1, -1), k, v)
    assert not split_k.suits(q, k.requires_grad_(), v)
    with torch.no_grad():
        assert split_k.suits(q, k, v)
    empty = split_k.attend(q[:, :, :0], k[:, :, :0], v[:, :, :0], positions=torch.arange(0))
    assert empty.shape == (1, 2, 0, 4)
    none = torch.zeros(1, 1, 1, 0, dtype=torch.bool)
    assert split_k.split(q, k[:, :, :0], v[:, :, :0], None, none).eq(0).all()


def test_what_cannot_be_is_refused():
    q, k, v = qkv(1, 2, 1, 1, 4, 4)
    for settings in ({"splits": 0}, {"threads": 0}):
        with pytest.raises(UserError, match="at least 1"):
            split_k.split(q, k, v, seen([4]), **settings)
    with pytest.raises(UserError, match="must be a multiple of K"):
        split_k.split(q[:, [0, 0, 1]], k[:, [0, 0]], v[:, [0, 0]], seen([4]))


def test_autocast_leaves_the_parts_alone():
    q, k, v = qkv(1, 4, 2, 1, 30, 8, torch.float32)
    want = reference(q, k, v, torch.ones(1, 30).bool())
    with torch.autocast("cpu", torch.bfloat16):
        close(split_k.split(q, k, v, seen([30]), splits=3, threads=1), want, "autocast")


def test_is_on(monkeypatch):
    """Token for token what the core writes, in project 8's caches, and by way of the merge."""
    model, tokens = trained(steps=30), torch.tensor([[3, 5, 7, 9], [20, 19, 18, 17]])
    prompts = [[3, 5, 7], [20, 19, 18, 17, 16]]

    def both():
        counting, addressed = (caches_for(model, kind, 2, 40) for kind in (KVCache, StaticCache))
        return decode(model, tokens, 12, counting), decode_ragged(model, prompts, 12, addressed)

    want = both()
    set_attend(model, functools.partial(split_k.attend, splits=3))
    for mine, true in zip(both(), want, strict=True):
        assert torch.equal(mine, true)

    def unplugged(ys, lses):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(split_k, "merge", unplugged)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        generate(model, [[3, 5, 7]], Sampling(max_tokens=2, temperature=0.0), eos_ids=())


def test_a_step_beside_a_prompt():
    """A prompt in chunks, then steps in shares, in a counting cache and in one with an address for each."""
    model, tokens = GPT(tiny(head_dim=16)).eval(), torch.randint(97, (2, 24))
    with torch.no_grad():
        want = model(tokens)
        set_attend(model, functools.partial(split_k.attend, splits=2))
        caches = [Cache() for _ in model.blocks]
        got = [model(part, caches=caches) for part in tokens.split([20, 1, 3], 1)]
        close(torch.cat(got, 1), want, "counting", rtol=1e-5, atol=1e-5)
        caches = [AddressedCache(2, 2, 16, 32) for _ in model.blocks]
        place = torch.arange(24).expand(2, -1)
        got = [model(tokens[:, a:z], positions=place[:, a:z], caches=caches) for a, z in ((0, 20), (20, 24))]
        close(torch.cat(got, 1), want, "addressed", rtol=1e-5, atol=1e-5)
    assert chunked.QUERIES > split_k.FEW
