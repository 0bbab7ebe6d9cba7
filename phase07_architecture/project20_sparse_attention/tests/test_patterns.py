"""The rules: against the papers, transformers' Longformer, FlexAttention; and keys against rules."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase07_architecture.project20_sparse_attention import patterns
from phase07_architecture.project20_sparse_attention.patterns import (
    Blocks,
    Columns,
    Global,
    Near,
    Random,
    pattern,
)

ALL = {
    "causal": patterns.causal(), "window": patterns.window(5), "dilated": patterns.window(3, 4),
    "sinks": patterns.sinks(4, 2), "longformer": patterns.longformer(4, (0, 13, 20)),
    "longformer, dilated": patterns.longformer(3, (2,), 3), "bigbird": patterns.bigbird(4, 2, 1, 2),
    "fixed": patterns.fixed(6), "fixed, two columns": patterns.fixed(6, 2), "strided": patterns.strided(5),
}  # fmt: skip


def mask(rule, T):
    """The pattern or part written out, the future hidden: rows of 0 and 1."""
    t, s = torch.arange(T)[:, None], torch.arange(T)
    return (rule.look(t, s) & (s <= t)).int()


def drawn(text):
    return [[int(mark == "x") for mark in line] for line in text.split()]


# ---- the rules ----

@pytest.mark.exercise("Near.look")
def test_a_window():
    """Itself and the two before it; with a dilation of two, every second."""
    assert mask(Near(3), 6).tolist() == drawn("x..... xx.... xxx... .xxx.. ..xxx. ...xxx")
    assert mask(Near(3, 2), 6).tolist() == drawn("x..... .x.... x.x... .x.x.. x.x.x. .x.x.x")
    assert mask(Near(2, 3), 6).tolist() == drawn("x..... .x.... ..x... x..x.. .x..x. ..x..x")
    assert mask(Near(None, 2), 6).tolist() == drawn("x..... .x.... x.x... .x.x.. x.x.x. .x.x.x")


@pytest.mark.exercise("Near.look")
def test_a_window_longer_than_the_text_is_causal():
    assert torch.equal(mask(Near(100), 7), torch.ones(7, 7).tril().int())
    assert torch.equal(mask(Near(None), 7), torch.ones(7, 7).tril().int())


@pytest.mark.exercise("Columns.look")
def test_columns_of_blocks():
    """Blocks of three: the last of each is seen by all that follow; or the last two."""
    assert mask(Columns(3), 6).tolist() == drawn("...... ...... ..x... ..x... ..x... ..x..x")
    assert mask(Columns(3, 2), 6).tolist() == drawn("...... .x.... .xx... .xx... .xx.x. .xx.xx")


@pytest.mark.exercise("Near.look", "Columns.look")
def test_the_patterns_of_the_sparse_transformer():
    """Child et al. 2019, with l = 3, by the paper's formulas: sets of keys, query by query."""
    l, T = 3, 11
    strided, fixed = mask(patterns.strided(l), T), mask(patterns.fixed(l, 1), T)
    for i in range(T):
        near = set(range(max(0, i - l), i + 1))  # A(1): max(0, i - l) … i
        far = {j for j in range(i + 1) if (i - j) % l == 0}  # A(2)
        assert set(strided[i].nonzero().flatten().tolist()) == near | far
        block = {j for j in range(i + 1) if j // l == i // l}
        columns = {j for j in range(i + 1) if j % l in range(l - 1, l)}  # j mod l in {l - c … l - 1}
        assert set(fixed[i].nonzero().flatten().tolist()) == block | columns


def test_blocks_and_global_tokens():
    assert mask(Blocks(2, 2), 6).tolist() == drawn("x..... xx.... xxx... xxxx.. ..xxx. ..xxxx")
    assert mask(Global((1, 4)), 6).tolist() == drawn("...... xx.... .x.... .x.... xxxxx. .x..x.")


@pytest.mark.exercise("Random.chosen")
def test_random_blocks_are_different_and_earlier():
    """So many as asked for, or all there are; none twice, all earlier; the same when asked again."""
    part = Random(4, 3, seed=5)
    for block in range(12):
        found = part.chosen(block).tolist()
        assert len(set(found)) == len(found) == min(3, block) and all(0 <= other < block for other in found)
        assert found == Random(4, 3, seed=5).chosen(block).tolist()


@pytest.mark.exercise("Random.chosen")
def test_random_blocks_depend_on_seed_and_block():
    """Over many seeds every earlier block is drawn, and about as often as any other."""
    counts = torch.zeros(10)
    for seed in range(300):
        counts[Random(4, 2, seed).chosen(10)] += 1
    assert counts.min() > 30 and counts.max() < 100  # 60 of each
    draws = [tuple(Random(4, 2).chosen(block).tolist()) for block in range(10, 40)]
    assert len(set(draws)) > 20


@pytest.mark.exercise("Random.chosen")
def test_random_blocks_leave_the_state_of_torch_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Random(4, 2).chosen(9)
    assert torch.equal(before, torch.get_rng_state())


# ---- the keys of a run of queries ----

def seen(part, rows):
    """The truth: each key up to the last query, asked one by one."""
    t = torch.tensor(list(rows))[:, None]
    s = torch.arange(int(t.max()) + 1)
    return s[(part.look(t, s) & (s <= t)).any(0)].tolist()


ROWS = [range(1), range(4), range(3, 9), range(17, 18), range(16, 30), range(40, 48)]


@pytest.mark.exercise("Near.keys")
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("part", [Near(1), Near(5), Near(None), Near(100)], ids=str)
def test_keys_of_a_window(part, rows):
    """All that are needed, none that is not, in order."""
    assert part.keys(rows).tolist() == seen(part, rows)


@pytest.mark.exercise("Near.keys")
@pytest.mark.parametrize("part", [Near(3, 4), Near(1, 3), Near(None, 5)], ids=str)
def test_keys_of_queries_that_are_a_step_apart(part):
    """They share one column of keys, and it begins at 0 or later."""
    for first in (0, 2, 13, 21):
        for n in (1, 2, 6):
            rows = range(first, first + (n - 1) * part.step + 1, part.step)
            assert part.keys(rows).tolist() == seen(part, rows), rows


@pytest.mark.exercise("Columns.keys")
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("part", [Columns(4), Columns(4, 3), Columns(1), Columns(60, 7)], ids=str)
def test_keys_of_columns(part, rows):
    assert part.keys(rows).tolist() == seen(part, rows)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(ALL)), st.integers(0, 60), st.integers(1, 30))
def test_keys_are_those_that_somebody_sees(name, first, n):
    """Of whole patterns, for neighbouring queries: as the rule has it, key by key."""
    rows = range(first, first + n)
    assert ALL[name].keys(rows).tolist() == seen(ALL[name], rows)


def test_groups_hold_every_part_once():
    """Strided: the window first, then the columns without what the window had."""
    near, far = patterns.strided(4).groups()
    assert [near[0], far[0]] == [1, 4] and near[1] == pattern(Near(4)) == far[2] and near[2].parts == ()
    assert len(patterns.bigbird(4).groups()) == 1


# ---- how many pairs ----

@pytest.mark.parametrize(("name", "made", "power"), [
    ("window", lambda n: patterns.window(16), 1.0), ("sinks", lambda n: patterns.sinks(16), 1.0),
    ("fixed", lambda n: patterns.fixed(round(n**0.5)), 1.5),
    ("strided", lambda n: patterns.strided(round(n**0.5)), 1.5), ("causal", lambda n: patterns.causal(), 2.0),
])  # fmt: skip
def test_pairs_grow_as_they_should(name, made, power):
    """From 1,024 tokens to 4,096: a power of the length, counted on every 16th query."""
    t = torch.arange(15, 4096, 16)[:, None]
    pairs = [made(n).look(t[: n // 16], torch.arange(n)).sum().item() for n in (1024, 4096)]
    assert abs(torch.tensor(pairs[1] / pairs[0]).log2().item() / 2 - power) < 0.08, pairs


# ---- what others have built ----

def sees(function, T, C=8):
    """(T, T) bool: on which inputs each output of a function (1, T, C) -> (1, T, C) depends."""
    x = torch.randn(1, T, C, requires_grad=True)
    y = function(x)
    return torch.stack([torch.autograd.grad(y[0, i].sum(), x, retain_graph=True)[0][0].abs().sum(-1) > 0
                        for i in range(T)])  # fmt: skip


@pytest.mark.slow  # transformers' models are long in coming
def test_matches_longformer_of_transformers():
    """Its self-attention, both ways in time; what lies in the past is our pattern, global tokens and all."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention
    T, one_side, places = 16, 2, (0, 9)
    config = transformers.LongformerConfig(hidden_size=8, num_attention_heads=2,
                                           attention_window=[2 * one_side],
                                           attention_probs_dropout_prob=0.0)  # fmt: skip
    torch.manual_seed(0)
    layer = LongformerSelfAttention(config, 0)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight)
    glob = torch.zeros(1, T, dtype=torch.bool)
    glob[:, list(places)] = True
    mask_of = torch.where(glob, 10_000.0, 0.0)

    def function(x):
        return layer(x, attention_mask=mask_of, is_index_masked=mask_of < 0, is_index_global_attn=glob,
                     is_global_attn=True)[0]  # fmt: skip

    want = sees(function, T) & torch.ones(T, T, dtype=torch.bool).tril()
    assert torch.equal(mask(patterns.longformer(one_side + 1, places), T).bool(), want)


def test_matches_masks_of_flex_attention():
    """torch's own block masks from the same rules keep the blocks that our keys are in."""
    from torch.nn.attention.flex_attention import create_block_mask
    T, size = 64, 8
    for name, made in (("window", patterns.window(11)), ("fixed", patterns.fixed(8)),
                       ("strided", patterns.strided(6)), ("sinks", patterns.sinks(9))):  # fmt: skip
        theirs = create_block_mask(lambda b, h, t, s, made=made: made.look(t, s), None, None, T, T,
                                   device="cpu", BLOCK_SIZE=size)  # fmt: skip
        want = theirs.to_dense()[0, 0].bool()
        got = torch.zeros_like(want)
        for block in range(T // size):
            got[block, made.keys(range(block * size, (block + 1) * size)).long() // size] = True
        assert torch.equal(got, want), name


def test_mistakes_of_a_user():
    for make, why in ((lambda: patterns.window(0), "a window of 0"), (lambda: patterns.fixed(4, 5), "5 col"),
                      (lambda: patterns.window(3, 0), "a step of 0"),
                      (lambda: patterns.bigbird(0), "at least 1"),
                      (lambda: patterns.longformer(4, ()), "give their positions")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            make()
