"""Parts and their merge: against torch's softmax, however the keys are cut, in whatever order."""

import math
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase07_architecture.project22_memory_efficient import parts


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cut(q, k, v, sizes, look=None):
    """The keys in parts of these sizes: [(y, lse)]."""
    ends = accumulate(sizes, initial=0)
    return [parts.part(q, k[..., a:z, :], v[..., a:z, :], None if look is None else look[..., a:z])
            for a, z in pairwise(ends)]  # fmt: skip


def merged(found):
    return parts.merge(*(torch.stack(some) for some in zip(*found, strict=True)))


# ---- a part ----


@pytest.mark.exercise("part")
@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_matches_softmax_over_a_part(shift):
    """All keys in one part: torch's softmax, and torch's log-sum-exp, also of scores that overflow exp."""
    q, k, v = draw(2, 3, 4), draw(2, 7, 4, seed=1), draw(2, 7, 5, seed=2)
    q, k = torch.cat((q, torch.full((2, 3, 1), 1.0)), -1), torch.cat((k, torch.full((2, 7, 1), shift)), -1)
    y, lse = parts.part(q, k, v)
    torch.testing.assert_close(y, (q @ k.mT).softmax(-1) @ v)
    torch.testing.assert_close(lse, (q @ k.mT).logsumexp(-1, keepdim=True))


@pytest.mark.exercise("part")
def test_hidden_keys_count_for_nothing():
    """Neither in the answer nor in its weight: as if they were not there."""
    q, k, v = draw(2, 3, 4), draw(2, 6, 4, seed=1), draw(2, 6, 4, seed=2)
    look = torch.tensor([1, 0, 1, 1, 0, 0]).bool().expand(3, -1)
    for mine, true in zip(parts.part(q, k, v, look), parts.part(q, k[:, [0, 2, 3]], v[:, [0, 2, 3]]),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(mine, true)
    by_row = torch.ones(3, 6, dtype=torch.bool).tril()
    want = (q @ k.mT).masked_fill(~by_row, -math.inf)
    torch.testing.assert_close(parts.part(q, k, v, by_row)[0], want.softmax(-1) @ v)
    torch.testing.assert_close(parts.part(q, k, v, by_row)[1], want.logsumexp(-1, keepdim=True))


@pytest.mark.exercise("part")
@pytest.mark.parametrize("keys", [0, 5])
def test_a_row_that_sees_nothing(keys):
    """No key, or none that is not hidden: 0, with a weight of nothing; and nothing but 0 flows back."""
    q, k, v = (draw(2, n, 4, seed=n).requires_grad_() for n in (3, keys, keys))
    y, lse = parts.part(q, k, v, torch.zeros(3, keys, dtype=torch.bool))
    assert y.shape == (2, 3, 4) and y.eq(0).all() and lse.eq(parts.LOW).all()
    assert all(grad.eq(0).all() for grad in torch.autograd.grad(y.sum() + lse.sum(), (q, k, v)))


@pytest.mark.exercise("part")
def test_16_bit_keys_are_read_as_they_are():
    """q in float32 says how exactly to compute: what is rounded is what was stored, and nothing after it."""
    q, k, v = (draw(1, n, 8, seed=n, dtype=torch.float32) for n in (2, 40, 40))
    y, lse = parts.part(q, k.bfloat16(), v.bfloat16())
    want = (q @ k.bfloat16().float().mT).softmax(-1) @ v.bfloat16().float()
    assert y.dtype == lse.dtype == torch.float32
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-6)


# ---- the merge ----


@pytest.mark.exercise("merge")
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 999), st.sampled_from([1, 20]))
def test_matches_the_whole_however_it_is_cut(sizes, seed, sharp):
    """Parts of any sizes, some of no key at all, in any order: the answer and the weight of all keys."""
    S = sum(sizes) + 1
    q, k, v = sharp * draw(3, 4, seed=seed), draw(S, 4, seed=seed + 1), draw(S, 4, seed=seed + 2)
    found = cut(q, k, v, [*sizes, 1])
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    y, lse = merged([found[i] for i in order])
    torch.testing.assert_close(y, (q @ k.mT).softmax(-1) @ v)
    torch.testing.assert_close(lse, (q @ k.mT).logsumexp(-1, keepdim=True))


@pytest.mark.exercise("merge")
def test_a_merge_of_merges():
    """What comes out is a part again: merged two by two or all at once, the same."""
    q, k, v = draw(2, 3, 4), draw(2, 8, 4, seed=1), draw(2, 8, 4, seed=2)
    found = cut(q, k, v, [1, 3, 2, 2])
    pairs = [merged(found[:2]), merged(found[2:])]
    for mine, true in zip(merged(pairs), merged(found), strict=True):
        torch.testing.assert_close(mine, true)


@pytest.mark.exercise("merge")
def test_a_key_is_the_smallest_part():
    """Its answer is its value and its weight its score: so attention itself is a merge."""
    scores, v = draw(5, 3, 1), draw(5, 3, 4, seed=1)
    want = (scores.softmax(0) * v).sum(0)
    torch.testing.assert_close(parts.merge(v, scores)[0], want)


@pytest.mark.exercise("merge")
@pytest.mark.parametrize("size", [90.0, 1e4, -1e4])
def test_weights_that_overflow(size):
    """exp of 90 is beyond float32: a maximum is taken off first, that of the parts."""
    lses = torch.tensor([size, size + 1]).view(2, 1, 1)
    y, lse = parts.merge(torch.tensor([0.0, 1.0]).view(2, 1, 1), lses)
    torch.testing.assert_close(y.item(), 1 / (1 + math.exp(-1)), rtol=1e-4, atol=0)
    torch.testing.assert_close(lse.item(), size + math.log(1 + math.e), rtol=1e-5, atol=0)


@pytest.mark.exercise("merge")
def test_parts_that_saw_nothing():
    """They change nothing; where there are no others, the answer is 0 and not NaN."""
    y = torch.stack((draw(3, 4), torch.zeros(3, 4)))
    lse = torch.stack((draw(3, 1), torch.full((3, 1), parts.LOW)))
    for mine, true in zip(parts.merge(y, lse), (y[0], lse[0]), strict=True):
        torch.testing.assert_close(mine, true)
    y, lse = parts.merge(torch.zeros(2, 3, 4), torch.full((2, 3, 1), parts.LOW))
    assert y.eq(0).all() and lse.eq(parts.LOW).all()


# ---- heads and sight ----


def test_heads_are_grouped_without_a_copy_of_keys():
    """Query head h reads key head h // G, as in torch's own."""
    q, k = draw(2, 6, 5, 4), draw(2, 3, 7, 4, seed=1)
    rows = parts.group(q, k)
    assert rows.shape == (2, 3, 2, 5, 4)
    torch.testing.assert_close(rows[:, 1, 1], q[:, 3] / 2)
    torch.testing.assert_close(parts.ungroup(rows, q), q / 2)
    with pytest.raises(UserError, match="6 query heads do not divide among 4"):
        parts.group(q, k[:, [0, 1, 2, 2]])


def test_spans_and_sight():
    """Causal queries 4 and 5 in parts of 4 keys: the first whole, of the next what they see, then none."""
    reach = torch.tensor([[5, 6]])
    assert parts.spans(4, 9, reach) == [(0, 4, True), (4, 6, False)]
    assert parts.look_at(4, 6, reach, None, 2)[0, 0].tolist() == [[True, False], [True, True]] * 2
    mask = torch.ones(1, 1, 2, 2, 9, dtype=torch.bool)
    assert parts.spans(4, 9, None, mask) == [(0, 4, False), (4, 8, False), (8, 9, False)]
    assert parts.look_at(8, 9, None, mask, 2).shape == (1, 1, 4, 1)
    assert parts.spans(4, 0, None, mask) == [(0, 0, False)]
