"""LoRALinear against the matrix that it stands for, a model with adapters, merging, tied heads."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common import hub, tokenizer
from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from common.trial import model_folder
from phase02_finetuning.project05_lora import lora
from phase02_finetuning.project05_lora.lora import LoRAConfig, LoRALinear, scaling


def layer(bias=False, seed=0, **settings):
    """A linear layer 6 -> 10 with an adapter of rank 3 that is not zero, in float64."""
    torch.manual_seed(seed)
    made = LoRALinear(nn.Linear(6, 10, bias=bias), LoRAConfig(**{"r": 3, "alpha": 4.0, **settings})).double()
    nn.init.normal_(made.B)
    if made.magnitude is not None:
        made.magnitude.data.mul_(torch.rand(10) + 0.5)
    return made


def adapted(head=False, **settings):
    """A tiny GPT with adapters that change something."""
    torch.manual_seed(0)
    model = GPT(tiny(tie_embeddings=True))
    targets = (*lora.MATRICES, "head") if head else lora.MATRICES
    lora.apply(model, LoRAConfig(r=4, alpha=8.0, targets=targets, **settings))
    for made in lora.adapters(model).values():
        nn.init.normal_(made.B, std=0.1)
    return model.eval()


TOKENS = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(1))


# ---- the scale ----


@pytest.mark.exercise("scaling")
def test_the_scale_is_alpha_over_rank():
    """alpha 16 at rank 8 is a scale of 2; twice the rank, half the scale."""
    assert scaling(LoRAConfig(r=8, alpha=16.0)) == pytest.approx(2.0)
    assert scaling(LoRAConfig(r=16, alpha=16.0)) == pytest.approx(1.0)


@pytest.mark.exercise("scaling")
def test_rslora_divides_by_the_root():
    """With rslora, alpha 16 at rank 16 is a scale of 4."""
    assert scaling(LoRAConfig(r=16, alpha=16.0, rslora=True)) == pytest.approx(4.0)
    assert scaling(LoRAConfig(r=4, alpha=3.0, rslora=True)) == pytest.approx(1.5)


# ---- one layer ----


@pytest.mark.exercise("LoRALinear.delta")
def test_delta_by_hand():
    """B (2, 1) times A (1, 3), times alpha / r = 2: an outer product, doubled."""
    made = LoRALinear(nn.Linear(3, 2, bias=False), LoRAConfig(r=1, alpha=2.0))
    made.A.data, made.B.data = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [-1.0]])
    assert made.delta().tolist() == [[2.0, 4.0, 6.0], [-2.0, -4.0, -6.0]]


@pytest.mark.exercise("LoRALinear.delta")
def test_delta_has_the_rank():
    """(out, in), and no more than r directions in it."""
    delta = layer().delta()
    assert delta.shape == (10, 6) and torch.linalg.matrix_rank(delta) == 3


CASES = [{}, {"bias": True}, {"rslora": True}, {"dora": True}, {"dora": True, "bias": True}]


@pytest.mark.exercise("LoRALinear.forward")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_whole_matrix(case):
    """The thin way gives what F.linear with W + scale B A gives, for any number of axes; DoRA and bias
    too."""
    made = layer(**case)
    whole = made.base.weight + made.scale * made.B @ made.A
    if made.magnitude is not None:
        whole = whole * (made.magnitude / whole.norm(dim=1))[:, None]
    for shape in ((6,), (5, 6), (2, 3, 6)):
        x = torch.randn(shape, dtype=torch.float64)
        close(made(x), F.linear(x, whole, made.base.bias), str(shape))


@pytest.mark.exercise("LoRALinear.forward")
@pytest.mark.parametrize("dora", [False, True])
def test_gradients_are_those_of_the_whole_matrix(dora):
    """x, A, B and the magnitudes get the gradients of the naive version; W gets none."""
    made = layer(bias=True, dora=dora)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    inputs = [x, made.A, made.B, *([made.magnitude] if dora else [])]
    naive = torch.autograd.grad(F.linear(x, made.full(), made.base.bias).square().sum(), inputs)
    thin = torch.autograd.grad(made(x).square().sum(), inputs)
    for ours, want, name in zip(thin, naive, ("x", "A", "B", "magnitude"), strict=False):
        close(ours, want, name)
    assert not made.base.weight.requires_grad


@pytest.mark.exercise("LoRALinear.forward")
def test_the_adapter_reads_what_dropout_leaves():
    """Dropout is in front of the adapter alone: what W says stays whole."""
    made = layer(dropout=0.9)
    made.train()
    x = torch.ones(2000, 6, dtype=torch.float64)
    share = made(x) - made.base(x)
    assert (share.abs().sum(1) == 0).double().mean() == pytest.approx(0.9**6, abs=0.05)
    close(share.mean(0), made.delta().sum(1), "its mean", rtol=0, atol=0.6)
    made.eval()
    close(made(x), F.linear(x, made.full()), "in eval mode")


@pytest.mark.exercise("LoRALinear.forward")
def test_nothing_is_changed_at_the_start():
    """B starts at zero: a fresh adapter gives what the layer gave, and only B gets a gradient."""
    torch.manual_seed(0)
    base, x = nn.Linear(6, 10), torch.randn(4, 6)
    made = LoRALinear(copy.deepcopy(base), LoRAConfig(r=3))
    assert torch.equal(made(x), base(x))
    made(x).square().sum().backward()
    assert made.B.grad.abs().sum() > 0 and made.A.grad.abs().sum() == 0


@pytest.mark.exercise("LoRALinear.forward")
def test_under_autocast_it_answers_in_bfloat16():
    """A bfloat16 layer with a float32 adapter, as they are trained: the type of W's product comes out."""
    made = layer().float()
    made.base.bfloat16()
    x = torch.randn(2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = made(x)
    assert y.dtype == torch.bfloat16 and made.A.dtype == torch.float32
    close(y.float(), F.linear(x, made.full()), "autocast", rtol=3e-2, atol=3e-2)


# ---- merging ----


@pytest.mark.parametrize("case", CASES, ids=str)
def test_merged_is_unmerged(case):
    """Merged, the layer gives the same; unmerged, W is back bit for bit."""
    made = layer(**case)
    x, before = torch.randn(5, 6, dtype=torch.float64), made.base.weight.clone()
    want = made(x)
    made.merge()
    assert not torch.equal(made.base.weight, before)
    close(made(x), want, "merged", rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="merged already"):
        made.merge()
    close(made.merged()(x), want, "made plain while merged", rtol=0, atol=1e-5)
    made.unmerge()
    assert torch.equal(made.base.weight, before) and torch.equal(made(x), want)
    with pytest.raises(UserError, match="not merged"):
        made.unmerge()


@pytest.mark.parametrize("settings", [{}, {"rslora": True}, {"dora": True}], ids=str)
def test_a_merged_model_is_an_ordinary_one(settings, tmp_path):
    """The same logits to 1e-5, plain layers only, and hub.save has a name for it."""
    model = adapted(**settings)
    want = model(TOKENS)
    merged = lora.merge(copy.deepcopy(model))
    close(merged(TOKENS), want, "logits", rtol=0, atol=1e-5)
    assert {type(m) for m in merged.modules()} == {type(m) for m in GPT(tiny()).modules()}
    hub.save(merged, tmp_path / "m")
    assert torch.equal(hub.load(tmp_path / "m")(TOKENS), merged(TOKENS))


def test_an_adapter_on_a_tied_head():
    """The embedding stays what it was, merged too; the tie ends where the two differ, and only there."""
    model = adapted(head=True)
    want, table = model(TOKENS), model.embed.weight.clone()
    assert model.head.base.weight is model.embed.weight
    model.head.merge()
    close(model(TOKENS), want, "merged in place", rtol=0, atol=1e-5)
    model.head.unmerge()
    merged = lora.merge(copy.deepcopy(model))
    close(merged(TOKENS), want, "merged", rtol=0, atol=1e-5)
    assert torch.equal(merged.embed.weight, table) and not merged.config.tie_embeddings
    assert lora.merge(adapted()).config.tie_embeddings


# ---- a model ----


def test_is_on():
    """Adapters change the logits, are what is trained and all that is, and without them the base is back."""
    torch.manual_seed(0)
    plain, model = GPT(tiny(tie_embeddings=True)).eval(), adapted()
    assert (model(TOKENS) - plain(TOKENS)).abs().max() > 1e-3
    assert len(lora.adapters(model)) == 2 * len(lora.MATRICES)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.endswith((".A", ".B")) for name in trained)
    for made in lora.adapters(model).values():
        nn.init.zeros_(made.B)
    close(model(TOKENS), plain(TOKENS), "with B at zero")


@pytest.mark.parametrize("dora", [False, True])
def test_training_moves_the_adapters_alone(dora):
    """Ten updates bring the loss down; every weight of the base is what it was."""
    model = adapted(dora=dora)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(10):
        loss = F.cross_entropy(model(TOKENS[:, :-1]).flatten(0, 1), TOKENS[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_gradients_of_the_first_steps():
    """A's gradient is zero while B is, so B moves first: one of the two must start away from zero."""
    made = LoRALinear(nn.Linear(4, 4), LoRAConfig(r=2))
    assert made.A.abs().max() <= 1 / math.sqrt(4) and made.A.std() > 0.1 and not made.B.any()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"r": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": ()}, "targets"),
        ({"targets": ("embed",)}, "targets"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        LoRAConfig(**settings)


def test_what_cannot_be_is_refused():
    """A rank above the matrix's, a second adapter on top, a model without any."""
    with pytest.raises(UserError, match="rank 7 for a matrix of rank 6"):
        LoRALinear(nn.Linear(6, 10), LoRAConfig(r=7))
    with pytest.raises(UserError, match="already replaced"):
        lora.apply(adapted(), LoRAConfig(r=2))
    with pytest.raises(UserError, match="has no adapter"):
        lora.adapters(GPT(tiny()))


def test_the_folder_of_a_test_is_what_it_seems(tmp_path):
    """An adapter over a folder of the chain generates nothing but ids that its tokenizer has."""
    folder = model_folder(tmp_path / "m")
    model = lora.apply(hub.load(folder), LoRAConfig(r=2))
    assert model(torch.tensor([tokenizer.load(folder).encode("hi")])).shape == (1, 2, 260)
