"""Tables in two parts, layers that share all but a correction: against torch, NumPy, transformers."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from common import hub
from common.errors import UserError
from common.model import GPT, set_attend
from common.testing import close, tiny
from phase02_finetuning.project05_lora.lora import LoRALinear
from phase06_compression.project19_weight_sharing import tying
from phase06_compression.project19_weight_sharing.factorised import (
    FactorisedEmbedding,
    FactorisedHead,
    break_even,
    factorise,
    low_rank,
)
from phase06_compression.project19_weight_sharing.folders import restore
from phase06_compression.project19_weight_sharing.layer_sharing import BY, adjacent, share
from phase06_compression.project19_weight_sharing.relaxed import corrections, relax
from phase06_compression.project19_weight_sharing.tying import count

LINEAR = ("attn.wq", "attn.wk", "attn.wv", "attn.wo", "ffn.w_gate", "ffn.w_up", "ffn.w_down")


def model_and_tokens(n_layer=4, **sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(n_layer=n_layer, **{"d_model": 16, "d_ff": 24, "tie_embeddings": True, **sizes}))
        for parameter in model.parameters():
            parameter.data.mul_(3.0 if parameter.dim() > 1 else 1.0)  # so that layers matter
        return model.eval(), torch.randint(97, (2, 9))


def loss_of(model, tokens):
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


# ---- the nearest matrix of a low rank ----


@pytest.mark.exercise("low_rank")
@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_matches_eckart_and_young(shape):
    """Its error is that of NumPy's singular values left out; at full rank none; both parts equally long."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    for rank in (1, 3, 7):
        left, right = low_rank(matrix, rank)
        assert left.shape == (shape[0], rank) and right.shape == (shape[1], rank)
        assert left.dtype == right.dtype == torch.float64
        error = (left @ right.T - matrix).norm().item()
        assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-5)
        assert torch.allclose(left.norm(dim=0), right.norm(dim=0), rtol=1e-5)
        assert left.norm(dim=0).square().tolist() == pytest.approx(values[:rank].tolist(), rel=1e-5)


# ---- the table in two parts ----


@pytest.mark.exercise("FactorisedEmbedding.forward")
def test_matches_the_embedding_of_albert():
    """transformers' word embeddings and embedding_hidden_mapping_in, with our parts as their weights."""
    transformers = pytest.importorskip("transformers.models.albert.modeling_albert")
    config = transformers.AlbertConfig(vocab_size=97, embedding_size=6, hidden_size=16, num_attention_heads=2,
                                       intermediate_size=8, num_hidden_layers=1)  # fmt: skip
    words = transformers.AlbertEmbeddings(config).word_embeddings
    into = transformers.AlbertTransformer(config).embedding_hidden_mapping_in
    model, tokens = model_and_tokens()
    ours = FactorisedEmbedding(model.embed, 6)
    with torch.no_grad():
        ours.weight.copy_(words.weight)
        ours.up.weight.copy_(into.weight)
        into.bias.zero_()
        assert torch.equal(ours(tokens, torch.arange(9)), into(words(tokens)))


@pytest.mark.exercise("FactorisedEmbedding.forward", "FactorisedHead.forward", "low_rank")
@pytest.mark.parametrize("tied", [True, False])
def test_matches_the_whole_table(tied):
    """Naive: a plain model whose table is the product. Logits, gradients; an untied head stays."""
    model, tokens = model_and_tokens(tie_embeddings=tied)
    head = model.head
    factorise(model, 5)
    assert isinstance(model.head, FactorisedHead) == tied and (tied or model.head is head)
    plain, _ = model_and_tokens(tie_embeddings=tied)
    plain.embed.weight.data.copy_(model.embed.full())
    close(model(tokens), plain(tokens), "logits", rtol=1e-4, atol=1e-5)
    for each in (model, plain):
        loss_of(each, tokens).backward()
    whole = plain.embed.weight.grad  # of W = T Uᵀ: dT = dW U, dU = dWᵀ T
    close(model.embed.weight.grad, whole @ model.embed.up.weight, "table", rtol=1e-3, atol=1e-6)
    close(model.embed.up.weight.grad, whole.T @ model.embed.weight, "up", rtol=1e-3, atol=1e-6)


@pytest.mark.exercise("FactorisedEmbedding.forward")
def test_factorised_embedding_drops_out():
    """Dropout is the old one's: in training some numbers are zero, behind the second part."""
    model, tokens = model_and_tokens(dropout=0.5)
    factorise(model.train(), 5)
    share_of_zeros = (model.embed(tokens, torch.arange(9)) == 0).float().mean()
    assert 0.2 < share_of_zeros < 0.8 and model.embed.weight.requires_grad


@pytest.mark.exercise("FactorisedHead.forward", "FactorisedEmbedding.forward")
def test_factorised_flops():
    """Fewer for the head: V E + C E in place of V C, as torch counts, and as tying.flops says."""
    model, tokens = model_and_tokens()
    set_attend(model, lambda q, k, v, **where: q)
    found = []
    for change in (lambda: model, lambda: factorise(model, 4)):
        change()
        with FlopCounterMode(display=False) as counter:
            model(tokens[:1, :1])
        found.append(counter.get_total_flops())
        assert found[-1] == tying.flops(model)
    assert found[0] - found[1] == 2 * (97 * 16 - 97 * 4 - 2 * 16 * 4)


@pytest.mark.exercise("low_rank", "FactorisedEmbedding.forward", "FactorisedHead.forward")
def test_a_factorised_folder(tmp_path):
    """Two parts, saved once though both ends use them; loaded, the same logits and one table."""
    model, tokens = model_and_tokens()
    before = count(model)
    factorise(model, 5)
    assert count(model) == before - 97 * 16 + 5 * (97 + 16)
    hub.save(model, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 4 * count(model) + 8000
    again = hub.load(tmp_path / "m", restore={BY: restore})
    assert torch.equal(again(tokens), model(tokens))
    assert again.head.weight is again.embed.weight and again.head.up is again.embed.up
    assert count(again) == count(model)


def test_tables_that_would_not_shrink():
    """From break-even on; and an embedding that is in two parts already."""
    model, _ = model_and_tokens()
    assert break_even(97, 16) == pytest.approx(97 * 16 / 113) and break_even(30_000, 768) > 128
    for rank in (0, 14, 16):
        with pytest.raises(UserError, match="choose 1 to 13"):
            factorise(model, rank)
    factorise(model, 13)
    with pytest.raises(UserError, match="Embedding"):
        factorise(model, 5)


# ---- shared but for a correction ----


@pytest.mark.exercise("corrections")
def test_corrections_of_a_group():
    """For each the nearest of that rank to what the shared matrix leaves; at full rank all of it."""
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(10, 6, generator=draw) for _ in range(3)]
    shared = torch.randn(10, 6, generator=draw)
    for rank in (1, 4, 6):
        parts = corrections(weights, shared, rank)
        for weight, (b, a) in zip(weights, parts, strict=True):
            assert b.shape == (10, rank) and a.shape == (rank, 6)
            left = np.linalg.svd((weight - shared).numpy(), compute_uv=False)[rank:]
            error = (shared + b @ a - weight).norm().item()
            assert error == pytest.approx(float(np.sqrt((left**2).sum())), abs=1e-4)


@pytest.mark.exercise("corrections", "low_rank")
@pytest.mark.parametrize("mean", [False, True])
def test_relaxed_limits(mean):
    """At full rank it is the model that it was; the fewer ranks, the further off; far fewer numbers."""
    model, tokens = model_and_tokens(d_ff=16, n_head=2, n_kv_head=2)
    want = model(tokens)
    off = {}
    for rank in (1, 8, 16):
        relaxed = relax(copy.deepcopy(model), adjacent(4, 2), rank, mean=mean)
        off[rank] = (relaxed(tokens) - want).norm().item()
        parts = relaxed.blocks[0].attn.wq
        assert parts.B.any() == mean and parts.A.any()  # the first is what is shared: nothing to correct
        assert torch.equal(parts.base.weight, model.blocks[0].attn.wq.weight) != mean
    assert off[16] < 1e-4 * want.norm() < off[8] < off[1]
    shared = share(copy.deepcopy(model), adjacent(4, 2), mean=True)
    assert count(shared) < count(relax(model, adjacent(4, 2), 1)) < count(model_and_tokens()[0])


class Corrected(nn.Module):
    """For torch's parametrize: a weight that is computed from a shared one and two thin ones."""

    def __init__(self, shared, b, a):
        super().__init__()
        self.shared, self.b, self.a = shared, b, a

    def forward(self, own):
        return self.shared + self.b @ self.a


@pytest.mark.exercise("corrections", "low_rank")
def test_matches_parametrize_of_torch():
    """The same model by torch.nn.utils.parametrize: logits, and gradients of what is shared or is not."""
    model, tokens = model_and_tokens(2)
    plain = copy.deepcopy(model)
    relax(model, (0, 0), 3, mean=True)
    shared = {}
    for i, block in enumerate(model.blocks):
        for name in LINEAR:
            layer = block.get_submodule(name)
            base = shared.setdefault(name, nn.Parameter(layer.base.weight.detach().clone()))
            parts = (nn.Parameter(part.detach().clone()) for part in (layer.B, layer.A))
            parametrize.register_parametrization(plain.blocks[i].get_submodule(name), "weight",
                                                 Corrected(base, *parts))  # fmt: skip
    close(model(tokens), plain(tokens), "logits", rtol=1e-4, atol=1e-4)
    for each in (model, plain):
        loss_of(each, tokens).backward()
    for name in LINEAR:
        layer = model.blocks[1].get_submodule(name)
        its = plain.blocks[1].get_submodule(name).parametrizations.weight[0]
        assert layer.base is model.blocks[0].get_submodule(name).base
        for mine, true in ((layer.base.weight, its.shared), (layer.A, its.a), (layer.B, its.b)):
            assert mine.grad.norm() > 0
            close(mine.grad, true.grad, f"gradient in {name}", rtol=1e-3, atol=1e-5)


@pytest.mark.exercise("corrections")
def test_a_relaxed_folder(tmp_path):
    """Shared matrices once, corrections and norms for each layer; loaded, the same logits and sharing."""
    model, tokens = model_and_tokens()
    norms = [block.norm_attn for block in model.blocks]
    relax(model, (0, 1, 0, 2), 2)
    assert [block.norm_attn for block in model.blocks] == norms
    assert type(model.blocks[1].attn.wq) is nn.Linear and isinstance(model.blocks[2].attn.wq, LoRALinear)
    hub.save(model, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 4 * count(model) + 12_000
    again = hub.load(tmp_path / "m", restore={BY: restore})
    assert torch.equal(again(tokens), model(tokens)) and count(again) == count(model)
    assert again.blocks[0].ffn.w_up.base is again.blocks[2].ffn.w_up.base


def test_what_cannot_be_relaxed():
    """Nothing to join, too high a rank, layers that are one already, another length."""
    model, _ = model_and_tokens()
    with pytest.raises(UserError, match="joins no layers"):
        relax(model, (0, 1, 2, 3), 2)
    with pytest.raises(UserError, match="plan of 2 layers"):
        relax(model, (0, 0), 2)
    with pytest.raises(UserError, match="rank 20"):
        relax(copy.deepcopy(model), (0, 0, 1, 1), 20)
    with pytest.raises(UserError, match="share already"):
        relax(share(model, (0, 0, 1, 1)), (0, 0, 1, 1), 2)
