"""Training for ways out beside torch's own losses; blocks are left out as often as the rates say."""

import pytest
import torch
import torch.nn.functional as F

from common.model import GPT
from common.testing import tiny
from phase09_compiler.project27_early_exit.exit_loss import ExitLoss, drop_rates, soft_loss
from phase09_compiler.project27_early_exit.exits import exit_logits, restore


@pytest.mark.exercise("drop_rates")
def test_drop_rates_rise_from_nothing():
    """D(l) = exp(l ln 2 / (L - 1)) - 1 of the paper: 0 at the first block, 1 at the last, √2 - 1 half way."""
    assert drop_rates(5, 0.2) == pytest.approx(
        [0, 0.2 * (2**0.25 - 1), 0.2 * (2**0.5 - 1), 0.2 * (2**0.75 - 1), 0.2]
    )
    assert drop_rates(1, 0.3) == [0.0]


@pytest.mark.exercise("soft_loss")
def test_soft_loss_beside_torch():
    """torch's cross-entropy with shares for targets, its gradient too; none flows to the teacher."""
    draw = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(2, 3, 7, generator=draw, requires_grad=True) for _ in range(2))
    got = soft_loss(logits, teacher)
    want = F.cross_entropy(logits.flatten(0, 1), teacher.detach().flatten(0, 1).softmax(-1))
    assert torch.allclose(got, want)
    assert torch.allclose(*(torch.autograd.grad(loss, logits)[0] for loss in (got, want)), atol=1e-7)
    assert not got.requires_grad or torch.autograd.grad(
        soft_loss(logits, teacher), teacher, allow_unused=True)[0] is None  # fmt: skip


def objective(layers=(2,), **how):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = restore(GPT(tiny(n_layer=3)), layers)
    for parameter in model.exits.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 6
    batch = torch.randint(97, (2, 4, 9), generator=torch.Generator().manual_seed(2))
    return ExitLoss(model, **how), batch


@pytest.mark.exercise("ExitLoss.forward")
def test_exit_loss_is_made_of_torch_losses():
    """Top, way out and probe, each by torch's own loss; gradients by autograd of the sum."""
    made, (inputs, targets) = objective(weight=0.5, most=0.0)
    model = made.model
    got = made((inputs, targets))
    x, positions = model.embed(inputs, None), torch.arange(9)
    for block in model.blocks[:2]:
        x = block(x, rope=model.rope(positions), positions=positions)
    top = model(inputs).flatten(0, 1)
    norm, ffn = model.exits.translate["2"]
    out = model.head(model.norm(x + ffn(norm(x)))).flatten(0, 1)
    right = (out.argmax(-1) == top.argmax(-1)).float()
    sure = model.exits.probe["2"](x.detach()).flatten()
    soft = F.cross_entropy(out, top.detach().softmax(-1))
    want = (F.cross_entropy(top, targets.flatten()) + 0.5 * soft) / 1.5
    want = want + F.binary_cross_entropy_with_logits(sure, right)
    assert torch.allclose(got, want, atol=1e-6)
    parameters = list(model.parameters())
    mine, true = (torch.autograd.grad(loss, parameters) for loss in (got, want))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, true, strict=True))


@pytest.mark.exercise("ExitLoss.forward")
def test_each_way_out_has_its_turn():
    """Over batches every way out learns, one at a time."""
    made, batch = objective(layers=(1, 2))
    seen = set()
    for seed in range(12):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.zero_grad(set_to_none=True)
            made(batch).backward()
        touched = [n for n in "12" if made.model.exits.translate[n][1].w_down.weight.grad is not None]
        assert len(touched) == 1
        seen |= {*touched}
    assert seen == {"1", "2"}


def test_layer_dropout_leaves_out_blocks_for_rows():
    """Never in evaluation; in training as often as the rates say, row by row, and the first block never."""
    made, (inputs, _) = objective(layers=(1, 2), most=0.9)
    assert all(torch.equal(a, b) for a, b in zip(made.eval().states(inputs).values(),
                                                 made.states(inputs).values(), strict=True))  # fmt: skip
    assert torch.allclose(exit_logits(made.model, 3, made.states(inputs)[3]), made.model(inputs), atol=1e-6)
    rows, dropped = inputs[:1].expand(400, -1), []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        states = made.train().states(rows)
    for n in (2, 3):
        dropped.append((states[n] == states[n - 1]).all(-1).all(-1).float().mean().item())
    assert dropped == pytest.approx(made.rates[1:], abs=0.08) and made.rates[0] == 0
