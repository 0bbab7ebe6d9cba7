"""attention.py against torch's own attention, and against what must hold of any attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phase01_foundation.project01_minimal_gpt.attention import (
    Attention,
    attend,
    hide_future,
    look,
    merge_heads,
    split_heads,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def gradients(y, *inputs):
    """The gradients of a sum in which every output counts differently."""
    return torch.autograd.grad((y * torch.arange(y.numel()).view(y.shape).cos()).sum(), inputs)


@pytest.mark.exercise("look")
def test_look_mixes_what_fits():
    """A query that fits one key takes that key's value; one that fits all alike takes the mean."""
    keys, values = [[3.0, 0.0], [0.0, 3.0]], [[10.0, 1.0], [20.0, 2.0]]
    mixed, weights = look([40.0, 0.0], keys, values)
    assert weights == pytest.approx([1, 0], abs=1e-9)
    assert mixed == pytest.approx([10, 1])
    mixed, weights = look([0.0, 0.0], keys, values)
    assert weights == pytest.approx([0.5, 0.5])
    assert mixed == pytest.approx([15, 1.5])


@pytest.mark.exercise("look")
def test_look_matches_torch():
    """Five tokens, three numbers each, one query: torch's fused attention gives the same."""
    q, k, v = drawn(1, 3), drawn(5, 3, seed=1), drawn(5, 4, seed=2)
    mixed, weights = look(q[0].tolist(), k.tolist(), v.tolist())
    assert sum(weights) == pytest.approx(1)
    assert mixed == pytest.approx(F.scaled_dot_product_attention(q, k, v)[0].tolist(), abs=1e-6)


@pytest.mark.exercise("look")
def test_look_survives_large_scores():
    """exp(2000) is too large for a computer; the shares are not."""
    mixed, weights = look([1000.0], keys=[[2.0], [1.0], [-3.0]], values=[[5.0], [6.0], [7.0]])
    assert weights == pytest.approx([1, 0, 0])
    assert mixed == pytest.approx([5])


@pytest.mark.exercise("hide_future")
def test_hide_future_leaves_the_past():
    """Row t keeps its first t + 1 scores as they were; all behind them are -inf."""
    scores = drawn(2, 4, 4)
    hidden = hide_future(scores)
    for t in range(4):
        assert torch.equal(hidden[:, t, : t + 1], scores[:, t, : t + 1]), f"row {t}: the past changed"
        assert (hidden[:, t, t + 1 :] == float("-inf")).all(), f"row {t} can still see the future"


@pytest.mark.exercise("attend")
def test_attend_is_look_for_every_token():
    """Row t of attend is look(query t)."""
    q, k, v = drawn(3, 4), drawn(5, 4, seed=1), drawn(5, 2, seed=2)
    y, weights = attend(q, k, v, causal=False)
    for t in range(3):
        mixed, shares = look(q[t].tolist(), k.tolist(), v.tolist())
        assert weights[t].tolist() == pytest.approx(shares, abs=1e-6)
        assert y[t].tolist() == pytest.approx(mixed, abs=1e-6)


@pytest.mark.exercise("attend")
@pytest.mark.parametrize("causal", [False, True])
def test_attend_matches_torch(causal):
    """Outputs and gradients equal F.scaled_dot_product_attention's to 1e-6, with and without the mask."""
    q, k, v = (drawn(2, 3, 6, 8, seed=seed) for seed in range(3))
    y, weights = attend(q, k, v, causal=causal)
    reference = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(y, reference, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 6))
    for ours, theirs in zip(gradients(y, q, k, v), gradients(reference, q, k, v), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.exercise("attend")
def test_attend_hides_the_future():
    """With causal, the table of shares is a lower triangle; without, every token gets some of every other."""
    q, k, v = (drawn(1, 2, 5, 4, seed=seed) for seed in range(3))
    assert torch.equal(attend(q, k, v, causal=True)[1].triu(1), torch.zeros(1, 2, 5, 5))
    assert (attend(q, k, v, causal=False)[1] > 0).all()


@pytest.mark.exercise("split_heads")
def test_split_heads_keeps_tokens_apart():
    """Head h of token t holds numbers h·D to (h + 1)·D of that token, and of no other."""
    x = torch.arange(2 * 3 * 8).view(2, 3, 8)
    heads = split_heads(x, n_head=4)
    assert heads.shape == (2, 4, 3, 2)
    for h in range(4):
        assert torch.equal(heads[:, h], x[:, :, 2 * h : 2 * h + 2]), f"head {h} got other numbers"


@pytest.mark.exercise("merge_heads")
def test_merge_heads_puts_them_side_by_side():
    """(B, H, T, D) -> (B, T, H·D), head 0 first."""
    y = torch.arange(2 * 4 * 3 * 2).view(2, 4, 3, 2)
    merged = merge_heads(y)
    assert merged.shape == (2, 3, 8)
    assert torch.equal(merged, torch.cat([y[:, h] for h in range(4)], dim=-1))


def twins(causal):
    """Our Attention and torch's, with the same weights."""
    ours = Attention(d_model=12, n_head=3, causal=causal)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([w.weight for w in (ours.wq, ours.wk, ours.wv)]))
        theirs.in_proj_bias.copy_(torch.cat([w.bias for w in (ours.wq, ours.wk, ours.wv)]))
        theirs.out_proj.weight.copy_(ours.wo.weight)
        theirs.out_proj.bias.copy_(ours.wo.bias)
    return ours, theirs


@pytest.mark.exercise("Attention.forward")
@pytest.mark.parametrize("causal", [False, True])
def test_attention_matches_torch(causal):
    """Outputs, and gradients of inputs and all weights, equal nn.MultiheadAttention's."""
    torch.manual_seed(0)
    ours, theirs = twins(causal)
    x = drawn(2, 5, 12)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    y, reference = ours(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(y, reference, atol=1e-6, rtol=1e-5)
    packed = (theirs.in_proj_weight, theirs.in_proj_bias)
    wanted = gradients(reference, x, *packed, *theirs.out_proj.parameters())
    layers = (ours.wq, ours.wk, ours.wv)
    got = gradients(y, x, *(w.weight for w in layers), *(w.bias for w in layers), *ours.wo.parameters())
    got = (got[0], torch.cat(got[1:4]), torch.cat(got[4:7]), *got[7:])
    for mine, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


@pytest.mark.exercise("Attention.forward")
def test_attention_knows_no_order():
    """Without a mask, shuffled tokens give the same outputs, shuffled alike: equivariance, not invariance."""
    layer, x, order = Attention(8, 2, causal=False), drawn(1, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])
    assert not torch.allclose(layer(x), layer(x)[:, order])


@pytest.mark.exercise("Attention.forward")
def test_attention_cannot_see_ahead():
    """Change the last token: what came out for the tokens before it stays bit for bit the same."""
    layer, x = Attention(8, 2), drawn(1, 6, 8)
    other = torch.cat((x[:, :-1], x[:, -1:] + 1), dim=1)
    assert torch.equal(layer(x)[:, :-1], layer(other)[:, :-1])
    assert not torch.equal(layer(x)[:, -1], layer(other)[:, -1])
