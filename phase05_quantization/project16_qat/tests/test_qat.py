"""The model that trains and the one that is exported, the same to the last bit; what is refused; folders."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common import hub
from common.errors import UserError
from common.model import GPT
from common.testing import tiny, trained
from phase05_quantization.project14_ptq import rtn
from phase05_quantization.project14_ptq.rtn import QuantLinear, qmax
from phase05_quantization.project16_qat import _tune, qat
from phase05_quantization.project16_qat.qat import (
    FakeQuantLinear,
    IntegerLinear,
    QATConfig,
    by_float,
    by_integer,
    code_product,
    token_steps,
)

BITS = (2, 3, 4, 8)


def model_and_tokens(**sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(**sizes))
        for p in model.parameters():
            p.data.mul_(3.0 if p.dim() > 1 else 1.0)  # so that logits differ from one another
        return model, torch.randint(97, (2, 11))


def codes(*shape, most, seed=0):
    return torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(seed))


def learn(model, tokens, updates=3, rate=1e-2):
    """A few updates; the loss of each."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=rate), []
    for _ in range(updates):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# ---- products of codes ----


@pytest.mark.exercise("code_product")
@pytest.mark.parametrize("groups", [1, 3])
def test_code_product_is_that_of_the_values(groups):
    """Beside the values that the codes stand for, multiplied in float64."""
    x, w = codes(5, 12, most=127), codes(7, 12, most=7, seed=1)
    x_step, w_step = torch.rand(5, 1) + 0.1, torch.rand(7, groups) + 0.1
    whole = w.double() * w_step.double().repeat_interleave(12 // groups, 1)
    want = (x * x_step.double()) @ whole.T
    got = code_product(x.float(), w.float(), x_step, w_step, by_float)
    assert got.dtype == torch.float32 and torch.allclose(got.double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.exercise("code_product")
@pytest.mark.parametrize(("bits", "groups"), [(8, 1), (8, 4), (4, 1), (2, 10)])
def test_code_product_is_exact_before_the_steps(bits, groups):
    """As floats and as integers bit for bit the same, with steps of any size and sums up to 2^24."""
    most = qmax(bits)
    x, w = codes(9, 640, most=127), codes(48, 640, most=most, seed=1)
    x[0], w[0] = -128, -most - 1  # the largest sum that there is
    x_step = torch.rand(9, 1, generator=torch.Generator().manual_seed(2)) / 91
    w_step = torch.rand(48, groups, generator=torch.Generator().manual_seed(3)) / 37
    got = code_product(x.float(), w.float(), x_step, w_step, by_float)
    assert torch.equal(got, code_product(x.to(torch.int8), w.to(torch.int8), x_step, w_step, by_integer))
    sums = (x[0] * w[0]).double().view(groups, -1).sum(1)
    assert got[0, 0].item() == pytest.approx((sums * w_step[0]).sum().item() * x_step[0].item(), rel=1e-6)


@pytest.mark.exercise("token_steps")
def test_token_steps_fit_each_row():
    """A row's largest number gets the last code; its step does not depend on other rows; no gradient."""
    x = torch.tensor([[1.0, -2.54, 0.5], [0.0, 0.0, 0.0], [127.0, 3.0, -1.0]], requires_grad=True)
    steps = token_steps(x)
    assert steps.shape == (3, 1) and not steps.requires_grad
    assert steps[[0, 2], 0].tolist() == pytest.approx([0.02, 1.0]) and 0 < steps[1, 0] < 1e-6
    assert torch.equal(token_steps(x[:1]), steps[:1])


# ---- the same to the last bit ----


@pytest.mark.parametrize("inputs", ["float", "dynamic", "static"])
@pytest.mark.parametrize("steps", ["learned", "observed"])
@pytest.mark.parametrize(("bits", "group"), [(2, None), (3, 16), (4, None), (8, 8)])
def test_matches_the_exported_model_exactly(bits, group, steps, inputs):
    """Logits of the model that was trained, and of the one of codes: torch.equal, after a few updates."""
    model, tokens = model_and_tokens(n_layer=1)
    qat.apply(model, QATConfig(bits, group, steps, inputs))
    learn(model, tokens)
    want = qat.freeze(model.eval())(tokens)
    exported = qat.export(model)
    kinds = {type(module) for module in exported.modules()}
    assert FakeQuantLinear not in kinds and QuantLinear in kinds
    assert (IntegerLinear in kinds) == (inputs != "float")
    assert torch.equal(exported(tokens), want)


def test_is_on():
    """Each row of each matrix in the blocks has at most 2^bits values when it is multiplied; not the head."""
    model, tokens = model_and_tokens()
    plain, names = model(tokens), [name for name, _ in model.named_parameters()]
    seen, product = [], F.linear

    def watched(x, weight, bias=None):
        seen.append(max(len(row.unique()) for row in weight.detach()))
        return product(x, weight, bias)

    qat.apply(model, QATConfig(bits=3))
    assert set(names) <= {name for name, _ in model.named_parameters()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "linear", watched)
        coarse = model(tokens)
    *blocks, head = seen
    assert len(blocks) == 7 * len(model.blocks) and max(blocks) <= 2**3 and head > 2**3
    assert not torch.allclose(coarse, plain, atol=0.05)


def test_training_recovers_what_rounding_breaks():
    """A tiny model that counts: rounded to 2 bits it fails; trained so for a hundred updates it can again."""
    model, draw = trained(n_layer=1).float(), torch.Generator().manual_seed(0)

    def batch():
        start, stride = (torch.randint(*bounds, (16, 1), generator=draw) for bounds in ((0, 32), (1, 5)))
        return (start + stride * torch.arange(17)) % 32

    @torch.no_grad()
    def loss(model, tokens):
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).item()

    held = batch()
    rounded = min(loss(made, held) for made in _tune.rounded(model, 2).values())
    qat.apply(model, QATConfig(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        tokens = batch()
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss(qat.export(qat.freeze(model)), held) < 0.5 * rounded


def test_frozen_steps_do_not_move():
    """Neither learned nor observed ones, though weights train on; nor what an observer saw, when judged."""
    for steps in ("learned", "observed"):
        model, tokens = model_and_tokens(n_layer=1)
        qat.freeze(qat.apply(model, QATConfig(4, steps=steps)))
        layer = qat.layers(model)[0]
        before, weight = layer.steps().clone(), layer.weight.detach().clone()
        learn(model, tokens)
        assert torch.equal(layer.steps(), before) and not torch.equal(layer.weight, weight)
    model, tokens = model_and_tokens(n_layer=1)
    qat.calibrate(qat.apply(model, QATConfig(4, inputs="static")), [tokens])
    observer = qat.layers(model)[0].observer
    high = observer.high.clone()
    model.eval()(tokens + 1 - 2 * (tokens > 0))
    assert torch.equal(observer.high, high)


def test_a_token_does_not_depend_on_its_neighbours():
    """A layer with coded inputs gives a row alone what it gives it among others, bit for bit."""
    torch.manual_seed(0)
    layer = FakeQuantLinear(nn.Linear(24, 5), QATConfig(4, 8, inputs="dynamic"))
    x = torch.randn(6, 3, 24)
    assert torch.equal(layer(x)[:1], layer(x[:1])) and layer(x).shape == (6, 3, 5)
    layer = FakeQuantLinear(nn.Linear(24, 5), QATConfig(8, inputs="dynamic"))
    want = F.linear(x, layer.weight, layer.bias)
    assert (layer(x) - want).norm() < 0.05 * want.norm()  # the bias is a third of it


def test_gradients_reach_weights_steps_and_inputs():
    """Near those of the float layer, in each setting; the step's is damped."""
    torch.manual_seed(0)
    old, x = nn.Linear(24, 16), torch.randn(5, 24, requires_grad=True)
    dy = torch.randn(5, 16)
    want = torch.autograd.grad(old(x), (old.weight, x), dy)
    for inputs in ("float", "dynamic"):
        layer = FakeQuantLinear(copy.deepcopy(old), QATConfig(8, inputs=inputs))
        got = torch.autograd.grad(layer(x), (layer.weight, x, layer.step), dy)
        for mine, true in zip(got[:2], want, strict=True):
            assert (mine - true).norm() < 0.05 * true.norm(), inputs
        assert got[2].shape == (16, 1) and 0 < got[2].norm() < 1
        layer.damping *= 10
        assert torch.allclose(torch.autograd.grad(layer(x), layer.step, dy)[0], 10 * got[2], rtol=1e-4)


# ---- what is refused ----


def test_settings_that_make_no_sense():
    for wrong, said in (({"bits": 5}, "not 5"), ({"group": 0}, "group is 0"),
                        ({"steps": "guessed"}, "learned"), ({"inputs": "int8"}, "dynamic")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            QATConfig(**wrong)
    with pytest.raises(UserError, match="do not divide rows of 32"):
        qat.apply(model_and_tokens()[0], QATConfig(4, 24))
    with pytest.raises(UserError, match="float32 holds exactly"):
        FakeQuantLinear(nn.Linear(2048, 2), QATConfig(8, inputs="dynamic"))
    broken = nn.Linear(4, 4)
    broken.weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match="NaN"):
        FakeQuantLinear(broken, QATConfig())


def test_the_order_of_things():
    """Export before freeze, twice, or without apply; observers without data, or an empty calibration set."""
    model, tokens = model_and_tokens(n_layer=1)
    with pytest.raises(UserError, match="rounds nothing"):
        qat.export(model)
    qat.apply(model, QATConfig(4, inputs="static"))
    with pytest.raises(UserError, match="freeze"):
        qat.export(model)
    with pytest.raises(UserError, match="calibration set is empty"):
        qat.calibrate(model, [])
    with pytest.raises(UserError, match="never seen"):
        qat.freeze(model)
    with pytest.raises(UserError, match="have not been seen"):
        model.eval()(tokens)
    qat.calibrate(model, [tokens])
    qat.export(qat.freeze(model))
    with pytest.raises(UserError, match="export comes once"):
        qat.export(model)


# ---- folders ----


@pytest.mark.parametrize(("by", "restore", "settings"), [
    ("project14_ptq", rtn.restore, {"bits": 2}),
    ("project16_qat", qat.restore, {"bits": 4, "group": 16, "inputs": "dynamic"}),
    ("project16_qat", qat.restore, {"bits": 4, "group": 16, "inputs": "static"}),
], ids=["float", "dynamic", "static"])  # fmt: skip
def test_a_folder_gives_the_same_logits(tmp_path, by, restore, settings):
    """Saved and loaded, bit for bit; float inputs make a folder of project 14. As a plain one: refused."""
    model, tokens = model_and_tokens(tie_embeddings=True)
    qat.apply(model, QATConfig(**settings))
    learn(model, tokens, 2)
    model = qat.export(qat.freeze(model.eval()))
    hub.save(model, tmp_path / "m")
    with pytest.raises(UserError, match=by):
        hub.load(tmp_path / "m")
    again = hub.load(tmp_path / "m", restore={by: restore})
    assert torch.equal(again(tokens), model(tokens))
    packed = sum(module.packed.nbytes for module in again.modules() if isinstance(module, QuantLinear))
    matrices = [m for m in GPT(model.config).blocks.modules() if isinstance(m, nn.Linear)]
    assert packed == sum(m.weight.numel() for m in matrices) * settings["bits"] / 8


@pytest.mark.gpu
@pytest.mark.parametrize("inputs", ["float", "dynamic"])
def test_exported_exactly_on_a_gpu(inputs):
    model, tokens = model_and_tokens()
    model, tokens = qat.apply(model, QATConfig(4, inputs=inputs)).cuda(), tokens.cuda()
    want = qat.freeze(model.eval())(tokens)
    assert torch.equal(qat.export(model)(tokens), want)
