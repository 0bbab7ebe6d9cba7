"""The checks catch what they are for: each wrong attend and cache is found, and the situation is named."""

import os
import time
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

from common.model import GPT, Cache, attend, distance
from common.ranks import collect
from common.testing import (
    AddressedCache,
    check_attend,
    check_cache,
    close,
    copy_weights,
    reference,
    spawn,
    tiny,
    tolerance,
    trained,
)


def test_reference_equals_torch():
    q, k, v = (torch.randn(2, n, 7, 16) for n in (4, 2, 2))
    mask = torch.rand(2, 1, 7, 7) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    bias = torch.randn(4, 7, 7)
    both = bias.masked_fill(~mask, float("-inf"))
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=both, enable_gqa=True)
    close(want, reference(q, k, v, mask, bias), "reference")


# attends that are wrong in one situation each


def sdpa(q, k, v, mask=None, causal=False):
    gqa = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


def heads_in_the_wrong_order(q, k, v, **where):
    """Query head h reads key head h modulo K."""
    k, v = (x.repeat(1, q.size(1) // x.size(1), 1, 1) for x in (k, v))
    return (
        attend(q, k, v, **{**where, "cache": None})
        if where.get("cache") is None
        else attend(q, k, v, **where)
    )


def looks_ahead(q, k, v, *, positions, cache=None, mask=None):
    if cache is not None:
        k, v = cache.update(k, v, positions)
    return sdpa(q, k, v, mask if mask is not None else distance(positions, k.size(2), cache) >= -1)


def counts_from_the_end(q, k, v, *, positions, cache=None, mask=None):
    """Right for a counting cache; ragged rows do not stand at its end."""
    if cache is not None:
        k, v = cache.update(k, v, positions)
    T, S = q.size(2), k.size(2)
    return sdpa(q, k, v, torch.ones(T, S, dtype=torch.bool).tril(S - T) if mask is None else mask)


def chunk_at_the_start(q, k, v, *, positions, cache=None, mask=None):
    if cache is not None:
        k, v = cache.update(k, v, positions)
    if positions.dim() == 2 and mask is None:
        mask = distance(positions, k.size(2), cache) >= 0
    return sdpa(q, k, v, mask, causal=mask is None and q.size(2) > 1)


def deaf_to_masks(q, k, v, *, mask=None, **where):
    return attend(q, k, v, **where)


def unscaled(q, k, v, **where):
    return attend(q * 4.0, k, v, **where)


def no_gradient_for_keys(q, k, v, **where):
    return attend(q, k.detach() + 0 * k, v, **where)


@pytest.mark.parametrize("wrong, situation", [
    (heads_in_the_wrong_order, "4 query heads over 2, T = S"),
    (looks_ahead, "4 query heads over 4, T = S"),
    (counts_from_the_end, "ragged"),
    (chunk_at_the_start, "tokens 6:10 into a cache"),
    (deaf_to_masks, "packed documents"),
    (unscaled, "T = S"),
    (no_gradient_for_keys, "gradient of k"),
])  # fmt: skip
def test_wrong_attends_are_found(wrong, situation):
    with pytest.raises(AssertionError, match=situation):
        check_attend(wrong)


def test_parts_can_be_left_out():
    check_attend(deaf_to_masks, masks=False)
    check_attend(counts_from_the_end, caches=False)
    check_attend(no_gradient_for_keys, gradients=False)
    with torch.no_grad(), pytest.raises(AssertionError):
        check_attend(unscaled, masks=False, caches=False, gradients=False)


def windowed(q, k, v, *, positions, cache=None, mask=None):
    if cache is not None:
        k, v = cache.update(k, v, positions)
    behind = distance(positions, k.size(2), cache)
    return sdpa(q, k, v, (behind < 4) & (behind >= 0 if mask is None else mask))


def test_a_rule_of_ones_own_is_part_of_the_truth():
    check_attend(windowed, bias=lambda behind: torch.where(behind < 4, 0.0, float("-inf")))
    with pytest.raises(AssertionError, match="T = S"):
        check_attend(windowed)
    with pytest.raises(AssertionError, match="T = S"):
        check_attend(attend, bias=lambda behind: torch.where(behind < 4, 0.0, float("-inf")))


# caches that break one promise each


class KeepsTheLastChunk(Cache):
    def update(self, k, v, positions):
        self.length += k.size(2)
        return k, v


class DoesNotCount(Cache):
    def update(self, k, v, positions):
        got = super().update(k, v, positions)
        self.length -= 1
        return got


class ReturnsItsRoom(Cache):
    def update(self, k, v, positions):
        super().update(k, v, positions)
        return self.k, self.v


class CannotRewind(Cache):
    def update(self, k, v, positions):
        before = [] if self.k is None else [self.k]
        self.length += k.size(2)
        self.k = torch.cat([*before, k], 2)
        self.v = torch.cat([*([] if self.v is None else [self.v]), v], 2)
        return self.k, self.v


class TakesAnyPositions(Cache):
    def update(self, k, v, positions):
        return super().update(k, v, positions.flatten())


class WritesInPlace(Cache):
    def update(self, k, v, positions):
        if positions.dim() != 1:
            raise ValueError("uniform rows only")
        if self.k is None:
            self.k, self.v = (x.new_zeros(x.size(0), x.size(1), 300, x.size(3)) for x in (k, v))
        start, self.length = self.length, self.length + k.size(2)
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


class Rounds(Cache):
    def update(self, k, v, positions):
        return super().update((k * 64).round() / 64, (v * 64).round() / 64, positions)


class IgnoresPositions(AddressedCache):
    """Writes each chunk behind the one before it."""

    end = 0

    def update(self, k, v, positions):
        start, self.end = self.end, self.end + k.size(2)
        return super().update(k, v, torch.arange(start, self.end).expand_as(positions))


class MixesRows(AddressedCache):
    def update(self, k, v, positions):
        return super().update(k.flip(0), v.flip(0), positions)


class TakesOneRow(AddressedCache):
    def update(self, k, v, positions):
        positions = positions.expand(k.size(0), -1) if positions.dim() == 1 else positions
        return super().update(k, v, positions)


@pytest.mark.parametrize("wrong, situation", [
    (KeepsTheLastChunk, "slots of k"),
    (DoesNotCount, "length 10 after 11"),
    (ReturnsItsRoom, "are filled"),
    (CannotRewind, "rewound"),
    (TakesAnyPositions, "were not refused"),
    (Rounds, "split"),
    (IgnoresPositions, "after writing at"),
    (MixesRows, "after writing at"),
    (TakesOneRow, "were not refused"),
])  # fmt: skip
def test_wrong_caches_are_found(wrong, situation):
    make = (lambda *sizes: wrong(*sizes)) if issubclass(wrong, AddressedCache) else (lambda *sizes: wrong())
    with pytest.raises(AssertionError, match=situation):
        check_cache(make)


def test_gradients_and_losses_of_caches():
    check_cache(lambda *sizes: WritesInPlace())
    with pytest.raises(RuntimeError, match="inplace operation"):
        check_cache(lambda *sizes: WritesInPlace(), gradients=True)
    check_cache(lambda *sizes: Rounds(), lossy=1 / 64)
    with pytest.raises(AssertionError):
        check_cache(lambda *sizes: Rounds(), lossy=1 / 1000)


# the rest


def test_tolerances():
    assert tolerance(torch.float32)["atol"] == 1e-5 < tolerance(torch.bfloat16)["atol"]
    with pytest.raises(AssertionError, match="here: "):
        close(torch.zeros(2), torch.full((2,), 1e-3), "here")
    close(torch.zeros(2), torch.full((2,), 1e-3), "here", rtol=0, atol=1e-2)


def test_trained_knows_what_comes_next():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    model = trained()
    assert torch.equal(torch.get_rng_state(), state), "whoever asks keeps their own random numbers"
    rows = (torch.arange(32)[:, None] + 3 * torch.arange(10)) % 32
    right = model(rows)[:, 2:-1].argmax(-1) == rows[:, 3:]
    assert model.embed.weight.dtype == torch.float64 and right.double().mean() > 0.95


def test_copy_weights():
    source, target = nn.Linear(3, 5), nn.Sequential(nn.Linear(3, 5))
    copy_weights(source, target, {"0.weight": "weight", "0.bias": "bias"})
    x = torch.randn(2, 3)
    assert torch.equal(source(x), target(x)) and target[0].weight is not source.weight
    with pytest.raises(AssertionError, match=r"no source is named for 0\.bias"):
        copy_weights(source, target, {"0.weight": "weight"})
    with pytest.raises(AssertionError, match=r"0.weight: \(5,\) into \(5, 3\)"):
        copy_weights(source, target, {"0.weight": "bias", "0.bias": "bias"})
    with pytest.raises(AssertionError, match=r"not copied: .*bias"):
        copy_weights(source, nn.Linear(3, 5, bias=False), {"weight": "weight"})


def test_tiny_takes_any_size():
    assert tiny(n_layer=5).n_layer == 5
    assert GPT(tiny())(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 97)


# several processes


def add_up(rank, world, start):
    total = torch.tensor([start + rank])
    dist.all_reduce(total)
    return rank, total


def go_wrong(rank, world, how):
    if rank == 1:
        if how == "raise":
            raise ValueError("what went wrong")
        if how == "die":
            os._exit(7)
        time.sleep(600)
    if how == "hang":
        return rank
    dist.barrier()


def test_spawn_returns_what_each_rank_did():
    assert spawn(add_up, 2, 10) == [(0, torch.tensor([21])), (1, torch.tensor([21]))]


def test_what_ranks_report():
    """The parent's side, with pipes of its own."""
    ended = SimpleNamespace(join=lambda seconds: None, exitcode=7)
    (a, to_a), (b, to_b) = Pipe(), Pipe()
    ranks = {a: (0, ended), b: (1, ended)}
    to_b.send((None, "b"))
    with pytest.raises(AssertionError, match=r"still running after 0\.1 s: rank 0 of 2"):
        collect(ranks, 0.1)
    to_a.send((None, "a"))
    to_b.send((None, "b"))
    assert collect(ranks, 1) == ["a", "b"]
    to_a.send(("Traceback: what went wrong", None))
    with pytest.raises(AssertionError, match=r"rank 0 failed:\nTraceback: what went wrong"):
        collect(ranks, 1)
    to_b.close()
    with pytest.raises(AssertionError, match="rank 1 died with exit code 7"):
        collect(ranks, 1)


@pytest.mark.slow
@pytest.mark.parametrize("how, message", [
    ("raise", "rank 1 failed:\n(.|\n)*what went wrong"),
    ("die", "rank 1 died with exit code 7"),
    ("hang", "still running after 0.5 s: rank 1 of 2"),
])  # fmt: skip
def test_spawn_names_the_rank(how, message):
    with pytest.raises(AssertionError, match=message):
        spawn(go_wrong, 2, how, timeout=0.5 if how == "hang" else 30)
