"""The policy beside torch.autocast, the scaler beside torch.amp.GradScaler, master weights by arithmetic."""

import copy

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.model import GPT, RMSNorm
from common.testing import tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase03_core_inference.project07_mixed_precision.mixed_precision import (
    LossScaler,
    Masters,
    MixedLinear,
    MixedNorm,
    Policy,
    for_inference,
    mixed,
    update,
)

BF16, FP16 = torch.bfloat16, torch.float16


def model_and_tokens(**sizes):
    torch.manual_seed(0)
    model = GPT(tiny(vocab_size=32, **sizes))
    for p in model.parameters():
        p.data.mul_(3.0)  # so that logits differ from one another
    return model, torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(1))


def with_grads(*grads):
    """Parameters of zeros that have these gradients."""
    made = []
    for grad in grads:
        made.append(nn.Parameter(torch.zeros(2)))
        made[-1].grad = None if grad is None else torch.tensor(grad)
    return made


# ---- the policy ----


@pytest.mark.exercise("MixedLinear.forward")
@pytest.mark.parametrize("work", [BF16, FP16], ids=str)
def test_linear_multiplies_in_the_work_type(work):
    """What torch's own linear gives in that type, bit for bit; both gradients come back, whole."""
    old = nn.Linear(6, 4)
    x = torch.randn(3, 6, requires_grad=True)
    got = MixedLinear(old, Policy(work))(x)
    want = nn.functional.linear(x.to(work), old.weight.to(work), old.bias.to(work))
    assert got.dtype == work and torch.equal(got, want)
    got.float().sum().backward()
    assert old.weight.grad.dtype == x.grad.dtype == torch.float32
    assert torch.allclose(x.grad, old.weight.detach().sum(0).expand(3, -1), atol=0.05)
    assert torch.allclose(old.weight.grad, x.detach().sum(0).expand(4, -1), atol=0.1)
    assert torch.allclose(old.bias.grad, torch.full((4,), 3.0))


@pytest.mark.exercise("MixedLinear.forward")
def test_linear_really_rounds_its_inputs():
    """1 + 2^-9 is no number of bfloat16: the product sees 1."""
    old = nn.Linear(2, 1, bias=False)
    old.weight.data.copy_(torch.tensor([[1.0, -1.0]]))
    assert MixedLinear(old, Policy(BF16))(torch.tensor([[1 + 2**-9, 1.0]])).item() == 0.0


@pytest.mark.exercise("MixedNorm.forward")
def test_norm_of_large_numbers():
    """3,000 squared is beyond float16: the norm is right all the same, and given in the work type."""
    norm = RMSNorm(8)
    x = 3000 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    got = MixedNorm(norm, Policy(FP16))(x)
    assert got.dtype == FP16 and torch.equal(got, norm(x).half())
    assert torch.equal(MixedNorm(norm, Policy(FP16))(x.half()), norm(x.half().float()).half())


@pytest.mark.parametrize("sizes", [{}, {"tie_embeddings": True}], ids=["untied", "tied"])
def test_matches_torch_autocast(sizes):
    """The same numbers bit for bit forward; gradients as far apart as one rounding."""
    model, tokens = model_and_tokens(**sizes)
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    mixed(ours, Policy(BF16))
    with torch.autocast("cpu", BF16):
        want = theirs(tokens)
        loss = CausalLM(theirs)((tokens[:, :-1], tokens[:, 1:]))
    loss.backward()
    assert torch.equal(ours(tokens), want)
    CausalLM(ours)((tokens[:, :-1], tokens[:, 1:])).backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert p.grad.dtype == torch.float32
        assert (p.grad - q.grad).norm() <= 0.02 * q.grad.norm(), name


def test_names_and_ties_stay():
    model, _ = model_and_tokens(tie_embeddings=True)
    names = [name for name, _ in model.named_parameters()]
    mixed(model, Policy())
    assert [name for name, _ in model.named_parameters()] == names
    assert model.head.weight is model.embed.weight


def test_is_on():
    """With the policy on, no product is left in float32, and the logits are not float32's."""
    model, tokens = model_and_tokens()
    plain = model(tokens)
    kinds = []
    for module in mixed(model, Policy(BF16)).modules():
        if isinstance(module, MixedLinear | MixedNorm):
            module.register_forward_hook(lambda m, x, y: kinds.append(y.dtype))
    low = model(tokens)
    assert kinds == [BF16] * (len(model.blocks) * 9 + 2)
    assert not torch.equal(low.float(), plain) and (low - plain).norm() < 0.05 * plain.norm()


def test_inference_in_half_the_bytes():
    """Weights in bfloat16, logits near float32's, nothing left to train."""
    model, tokens = model_and_tokens()
    plain = model(tokens)
    before = sum(p.nbytes for p in model.parameters())
    for_inference(model, Policy(BF16))
    assert sum(p.nbytes for p in model.parameters()) == before / 2
    assert not any(p.requires_grad for p in model.parameters())
    assert (model(tokens) - plain).norm() < 0.05 * plain.norm()


def test_a_policy_of_integers_is_refused():
    with pytest.raises(UserError, match="work is"):
        Policy(torch.int8)
    with pytest.raises(UserError, match="safe is"):
        Policy(safe=torch.float8_e4m3fn)


# ---- master weights ----


@pytest.mark.exercise("Masters.collect")
def test_collect_takes_gradients_over():
    """In float32, exactly; the model's are gone; none stays none."""
    model = nn.Linear(2, 2)
    masters = Masters(model, FP16)
    model.weight.grad = torch.tensor([[6e-8, 1.0], [2.0, -3.0]], dtype=FP16)
    want = model.weight.grad.float()
    masters.collect()
    weight, bias = masters.parameters()
    assert weight.grad.dtype == torch.float32 and torch.equal(weight.grad, want)
    assert weight.grad[0, 0] > 0 and bias.grad is None
    assert model.weight.grad is None


@pytest.mark.exercise("Masters.hand_out")
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_small_steps_add_up(dtype):
    """A thousand steps of 1e-5 on a weight of 1: each far below a step of 16 bits, together 0.01."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    masters = Masters(model, dtype)
    (high,) = masters.parameters()
    for _ in range(1000):
        high.data -= 1e-5
        masters.hand_out()
    assert model.weight.dtype == dtype and model.weight.item() == high.to(dtype).item()
    assert abs(high.item() - 0.99) < 1e-4


def test_masters_hold_the_weights_before_they_are_rounded():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1 + 2**-12)
    assert Masters(model, BF16).parameters()[0].item() == 1 + 2**-12
    with pytest.raises(UserError, match="all are frozen"):
        Masters(nn.Linear(1, 1).requires_grad_(False), BF16)


# ---- the scaler ----


@pytest.mark.exercise("LossScaler.unscale")
def test_unscale_divides_and_looks():
    scaler = LossScaler(8.0)
    parameters = with_grads([8.0, -16.0], None, [0.0, 4.0])
    scaler.unscale(parameters)
    assert [p.grad.tolist() for p in parameters if p.grad is not None] == [[1.0, -2.0], [0.0, 0.5]]
    assert not scaler.overflow
    for bad in ([0.0, float("inf")], [float("-inf"), 0.0], [float("nan"), 0.0]):
        scaler.unscale(with_grads([1.0, 1.0], None, bad))
        assert scaler.overflow
    scaler.unscale(with_grads([1.0, 1.0]))
    assert not scaler.overflow


@pytest.mark.exercise("LossScaler.step")
def test_step_is_skipped_after_an_overflow():
    (p,) = with_grads([1.0, 1.0])
    optimizer, scaler = torch.optim.SGD([p], lr=1.0), LossScaler()
    scaler.overflow = True
    assert scaler.step(optimizer) is False and p.tolist() == [0.0, 0.0]
    scaler.overflow = False
    assert scaler.step(optimizer) is True and p.tolist() == [-1.0, -1.0]


def scales(pattern, **settings):
    """The scale after each step, of which those that are 1 overflow."""
    scaler, seen = LossScaler(**settings), []
    for bad in pattern:
        scaler.overflow = bool(bad)
        scaler.update()
        seen.append(scaler.scale)
    return seen


@pytest.mark.exercise("LossScaler.update")
def test_scale_grows_and_backs_off():
    """Three good steps in a row double it; an overflow halves it and begins the count anew."""
    assert scales([0, 0, 0, 0, 1, 0, 0, 0], scale=8, interval=3) == [8, 8, 16, 16, 8, 8, 8, 16]
    assert scales([0, 0, 1, 0, 0, 0], scale=8, interval=3) == [8, 8, 4, 4, 4, 8]
    assert scales([1, 1, 1], scale=8) == [4, 2, 1]
    assert scales([0, 0], scale=2.0**127, interval=1) == [2.0**127] * 2


PLANTED = [0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


@pytest.mark.exercise("LossScaler.update")
@pytest.mark.parametrize("interval", [1, 2, 3, 5])
def test_matches_torch_grad_scaler(interval):
    """Step by step on planted overflows: scale, skipped steps, weights; bit for bit."""

    def weights():
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    ours, theirs = weights(), weights()
    rates = {"lr": 1e-2}
    mine, want = (torch.optim.AdamW(m.parameters(), **rates) for m in (ours, theirs))
    scaler = LossScaler(2.0**10, interval=interval)
    oracle = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=interval)
    for i, bad in enumerate(PLANTED):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(i))
        x[0, 0] = float("inf") if bad else x[0, 0]
        made = update(lambda batch: ours(batch).square().mean(), x, mine, scaler, list(ours.parameters()))[1]
        want.zero_grad()
        oracle.scale(theirs(x).square().mean()).backward()
        oracle.unscale_(want)
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        oracle.step(want)
        oracle.update()
        assert scaler.scale == oracle.get_scale(), f"step {i}"
        assert made == (not bad)
        assert all(map(torch.equal, ours.parameters(), theirs.parameters())), f"step {i}"


def test_settings_that_make_no_sense():
    for wrong in ({"scale": 0}, {"growth": 1.0}, {"backoff": 1.0}, {"interval": 0}, {"scale": float("nan")}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is"):
            LossScaler(**wrong)


# ---- one update ----


@pytest.mark.exercise("update")
def test_update_does_not_depend_on_the_scale():
    """A gradient of 3 clipped to 1: the same step, whatever the scale; the loss is given as it is."""
    for scale in (1.0, 2.0**16):
        p = nn.Parameter(torch.tensor([2.0]))
        optimizer = torch.optim.SGD([p], lr=0.5)
        for _ in range(2):
            loss, made = update(lambda x, p=p: (p * x).sum(), 3.0, optimizer, LossScaler(scale), [p])
        assert made and p.item() == pytest.approx(1.0, abs=1e-5)  # two steps of 0.5
        assert loss.item() == pytest.approx(4.5, abs=1e-5) and not loss.requires_grad


@pytest.mark.exercise("update")
def test_small_gradients_survive_in_float16():
    """A gradient of 1e-8 is 0 in float16, and 0.00066 if the loss is multiplied: the master moves."""
    for scale, moved in ((1.0, False), (2.0**16, True)):
        model = nn.Linear(1, 1, bias=False)
        masters = Masters(model, FP16)
        before = masters.parameters()[0].item()
        optimizer = torch.optim.SGD(masters.parameters(), lr=1e6)
        update(lambda x, m=model: m(x).float().sum() * 1e-8, torch.ones(1, 1, dtype=FP16), optimizer,
               LossScaler(scale), masters.parameters(), masters)  # fmt: skip
        after = masters.parameters()[0].item()
        assert (abs(after - before) > 5e-3) == moved
        assert model.weight.item() == masters.parameters()[0].half().item()


@pytest.mark.exercise("update")
def test_an_overflow_changes_nothing_but_the_scale():
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer, scaler = torch.optim.AdamW([p], lr=0.5), LossScaler(8.0)
    _, made = update(lambda x: (p * x).sum(), float("inf"), optimizer, scaler, [p])
    assert not made and p.item() == 2.0 and scaler.scale == 4.0 and not optimizer.state
