"""Each dress against an outside definition of it, and on: the model wearing it gives another answer."""

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT, Attention, Cache, Embedding, RMSNorm, Rope, SwiGLU, attend, swap
from common.testing import check_attend, close, tiny
from common.variants import (
    GeluFFN,
    LayerNorm,
    LearnedPositions,
    Llama3Rope,
    NoRope,
    QKNormAttention,
    SinusoidalPositions,
    YarnRope,
    alibi,
    alibi_attend,
    alibi_slopes,
    gpt2,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(tiny()).eval()


@pytest.fixture
def tokens():
    return torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(1))


DRESSES = {
    "LayerNorm": lambda model: swap(model, RMSNorm, LayerNorm),
    "GeluFFN": lambda model: swap(model, SwiGLU, GeluFFN),
    "NoRope": lambda model: swap(model, Rope, NoRope),
    "LearnedPositions": lambda model: swap(model, Embedding, lambda old: LearnedPositions(old, 64)),
    "SinusoidalPositions": lambda model: swap(model, Embedding, SinusoidalPositions),
    "QKNormAttention": lambda model: swap(model, Attention, lambda old: QKNormAttention(old, 1e-5)),
    "Llama3Rope": lambda model: swap(model, Rope, lambda old: Llama3Rope(old, 8.0, 1.0, 4.0, 16)),
    "YarnRope": lambda model: swap(model, Rope, lambda old: YarnRope(old, 4.0, 16)),
    "alibi": alibi,
    "gpt2": gpt2,
}


@pytest.mark.parametrize("name", DRESSES)
def test_each_is_on_and_runs_cached(name, model, tokens):
    before = model(tokens)
    assert DRESSES[name](model) is model
    after = model(tokens)
    assert not torch.allclose(before, after, atol=1e-4)
    caches = [Cache() for _ in model.blocks]
    with torch.no_grad():
        got = torch.cat([model(chunk, caches=caches) for chunk in tokens.split((5, 1, 6), 1)], 1)
    close(got, after, "cached")
    after.logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_layers_equal_torch():
    x, old = torch.randn(3, 32), tiny()
    norm = LayerNorm(RMSNorm(32, 1e-3))
    close(norm(x), F.layer_norm(x, (32,), eps=1e-3), "LayerNorm")
    swiglu = SwiGLU(old)
    ffn = GeluFFN(swiglu)
    theirs = nn.Sequential(nn.Linear(32, 48), nn.GELU("tanh"), nn.Linear(48, 32))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ffn.state_dict().values(), strict=True)))
    close(ffn(x), theirs(x), "GELU feed-forward")
    assert ffn.w_up.weight is swiglu.w_up.weight and (ffn.w_up.bias == 0).all(), "weights are kept"


def test_gpt2_attention_equals_multi_head_attention():
    torch.manual_seed(0)
    ours = gpt2(GPT(tiny(n_kv_head=4))).blocks[0].attn
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.in_proj_weight.data = torch.cat((ours.wq.weight, ours.wk.weight, ours.wv.weight)).detach()
    theirs.in_proj_bias.data = torch.cat((ours.wq.bias, ours.wk.bias, ours.wv.bias)).detach()
    theirs.out_proj.weight, theirs.out_proj.bias = ours.wo.weight, ours.wo.bias
    x, future = torch.randn(2, 9, 32), torch.ones(9, 9, dtype=torch.bool).triu(1)
    want, _ = theirs(x, x, x, attn_mask=future, need_weights=False)
    close(ours(x, rope=None, positions=torch.arange(9)), want, "attention with biases")


def test_positions_are_added(model, tokens):
    plain, positions = model.embed, torch.arange(12)
    learned = LearnedPositions(plain, 64)
    assert learned.weight is plain.weight
    close(learned(tokens, positions), plain(tokens, None) + learned.positions[:12], "learned")
    rows = torch.stack((positions, positions + 5))
    close(learned(tokens, rows)[1], plain(tokens[1], None) + learned.positions[5:17], "learned, ragged")


def test_sinusoids_are_the_papers():
    """Vaswani et al. 2017, section 3.5, one number at a time; ours has all sines before all cosines."""
    embed = Embedding(tiny(d_model=8))
    nn.init.zeros_(embed.weight)
    got = SinusoidalPositions(embed)(torch.zeros(1, 20, dtype=torch.long), torch.arange(20))[0]
    for position in (0, 1, 19):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert got[position, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert got[position, 4 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_alibi_equals_transformers():
    """Slopes and penalties of BLOOM, which counts distance from the first key: the same after a softmax."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    for H in (1, 4, 8, 12, 20):
        want = build_alibi_tensor(torch.ones(1, 9), H, torch.float32).view(H, 9)
        close(alibi_slopes(H)[:, None] * torch.arange(9), want, f"{H} heads")


def test_alibi_is_an_attend(model, tokens):
    check_attend(alibi_attend, bias=lambda behind: -alibi_slopes(4)[:, None, None] * behind)
    with pytest.raises(AssertionError):
        check_attend(alibi_attend)
    alibi(model)
    assert torch.allclose(model(tokens, positions=torch.arange(12) + 900), model(tokens), atol=1e-6)


def test_head_norms_keep_logits_bounded():
    """However large the weights, a normed query and key of D numbers multiply to D at most."""
    old = Attention(tiny())
    old.wq.weight.data *= 1e4
    attention = QKNormAttention(old, 1e-5)
    q, k, v = attention.project(torch.randn(2, 5, 32), None)
    close(q.square().mean(-1), torch.ones(2, 4, 5), "normed", rtol=1e-3, atol=1e-3)  # eps is in it
    assert (attend(q, k, v, positions=torch.arange(5)).shape, attention.wq) == ((2, 4, 5, 8), old.wq)


def test_stretched_frequencies():
    """The fastest pair stays, the slowest is slowed by the factor, and all lie between."""
    for make in (lambda old: Llama3Rope(old, 8.0, 1.0, 4.0, 512), lambda old: YarnRope(old, 8.0, 512)):
        plain, stretched = Rope(64, 1e4).inv_freq("cpu"), make(Rope(64, 1e4)).inv_freq("cpu")
        assert stretched[0] == plain[0] and torch.isclose(stretched[-1], plain[-1] / 8)
        assert ((plain / 8 <= stretched * 1.0001) & (stretched <= plain)).all()
    cos, _ = YarnRope(Rope(64, 1e4), 8.0, 512)(torch.zeros(1))
    assert cos.flatten()[0].item() == pytest.approx(0.1 * math.log(8) + 1)
    assert YarnRope(Rope(64, 1e4), 8.0, 512, scale=1.0)(torch.zeros(1))[0].max() == 1


def test_frequencies_that_are_refused():
    with pytest.raises(UserError, match="high > low"):
        Llama3Rope(Rope(8, 1e4), high=1.0, low=1.0)
    with pytest.raises(UserError, match="factor >= 1"):
        YarnRope(Rope(8, 1e4), 0.5, 512)


def test_gpt2_keeps_what_both_share():
    model = GPT(tiny(tie_embeddings=True))
    kept = model.blocks[0].attn.wq.weight, model.blocks[0].ffn.w_up.weight, model.embed.weight
    gpt2(model)
    assert kept[0] is model.blocks[0].attn.wq.weight and kept[1] is model.blocks[0].ffn.w_up.weight
    assert model.embed.weight is model.head.weight is kept[2] and model.head.bias is None
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))
