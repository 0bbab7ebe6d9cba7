"""Rounding and its gradients beside torch's own kernels and the paper's formula; steps; observers."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase05_quantization.project14_ptq.rtn import Grid, dequantize, qmax, quantize
from phase05_quantization.project16_qat.fake_quant import (
    FakeQuantize,
    Kept,
    Observer,
    Straight,
    candidates,
    first_step,
    gradient_scale,
    gradients,
    naive,
    to_codes,
)

BITS = (2, 3, 4, 8)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows(bits, dtype=torch.float32):
    """x (4, 64) and steps (4, 1), powers of two, so that dividing and multiplying by them is exact.

    Some numbers lie beyond the last code, some between it and half a step further, some on a tie.
    """
    step = torch.tensor([[0.5], [0.25], [1.0], [2.0]], dtype=dtype)
    x = draw(4, 64, dtype=dtype) * (0.6 * qmax(bits)) * step
    most = qmax(bits)
    edges = [most + 0.3, -most - 1.3, most + 0.6, -most - 7, 0.5, -0.5, 1.5, most]
    x[:, :8] = step * torch.tensor(edges, dtype=dtype)
    return x.requires_grad_(), step.requires_grad_()


# ---- straight through ----


@pytest.mark.exercise("Straight.backward")
def test_straight_sends_gradients_through():
    """Forwards torch.round, halves to the even one; backwards what came, unchanged."""
    x = torch.tensor([-1.5, -0.5, 0.2, 0.5, 1.5, 2.5, 7.9]).requires_grad_()
    y = Straight.apply(x)
    assert y.tolist() == [-2, 0, 0, 0, 2, 2, 8]
    dy = torch.arange(7.0) / 4 - 1
    assert torch.equal(torch.autograd.grad(y, x, dy)[0], dy)


def fake_by_torch(x, step, bits):
    most = qmax(bits)
    zero = torch.zeros(len(x), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(x, step.detach().flatten(), zero, 0, -most - 1, most)


@pytest.mark.exercise("to_codes", "Straight.backward")
@pytest.mark.parametrize("bits", BITS)
def test_matches_torch_fake_quantize(bits):
    """torch.fake_quantize_per_channel_affine, forward and backward, bit for bit; ties and what is clamped."""
    x, step = rows(bits)
    want, weight = fake_by_torch(x, step, bits), draw(4, 64, seed=1)
    (dwant,) = torch.autograd.grad(want, x, weight)
    got = naive(x, step, bits)
    (dgot,) = torch.autograd.grad(got, x, weight)
    assert torch.equal(got, want) and torch.equal(dgot, dwant)
    assert 0 < (dgot == 0).sum() < x.numel() / 2  # some are clamped


@pytest.mark.exercise("to_codes")
def test_matches_torch_fake_quantize_per_tensor():
    """One step for everything; codes are whole, and never beyond the last one."""
    x = 3 * draw(5, 7)
    want = torch.fake_quantize_per_tensor_affine(x, 0.25, 0, -8, 7)
    codes = to_codes(x, torch.tensor(0.25), 4)
    assert torch.equal(codes * 0.25, want)
    assert torch.equal(codes, codes.round()) and codes.min() == -8 and codes.max() == 7


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(BITS), st.floats(1e-3, 10))
def test_rounds_to_the_nearest_and_only_once(seed, bits, size):
    """Within half a step of what is not clamped; what lies on the grid already stays to the last bit."""
    x, step = size * draw(2, 16, seed=seed), torch.tensor([[size / 2], [size / 5]])
    y, most = naive(x, step, bits), step * qmax(bits)
    near = (y - x).abs() <= 0.50001 * step
    assert (near | (x > most) & (y == most) | (x < -most - step) & (y == -most - step)).all()
    assert torch.equal(naive(y, step, bits), y)


# ---- one operation, and the learned step ----


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bits", BITS)
def test_one_operation_equals_the_naive_version(bits, groups):
    """The same values to the last bit, project 14's own; the same gradients, in groups as well."""
    w = draw(6, 32, seed=bits).requires_grad_()
    step = (0.8 * draw(6, groups, seed=9).abs() / qmax(bits) + 0.01).requires_grad_()
    got, weight = FakeQuantize.apply(w, step, bits), draw(6, 32, seed=2)
    want = naive(w.view(6 * groups, -1), step.view(-1, 1), bits).view(6, 32)
    grid = Grid(step.detach(), None)
    assert torch.equal(got, want)
    assert torch.equal(got, dequantize(quantize(w.detach(), grid, bits), grid))
    pairs = zip(*(torch.autograd.grad(y, (w, step), weight) for y in (got, want)), strict=True)
    for mine, true in pairs:  # the naive version takes the difference of two sums, large at 8 bits
        assert mine.shape == true.shape and torch.allclose(mine, true, rtol=1e-4, atol=1e-5 * 2**bits)


@pytest.mark.exercise("gradients")
@pytest.mark.parametrize("bits", BITS)
def test_gradients_match_torch_learnable(bits):
    """torch._fake_quantize_learnable_per_channel_affine, which trains its steps: dx and dstep."""
    kernel = getattr(torch, "_fake_quantize_learnable_per_channel_affine", None)
    if kernel is None:
        pytest.skip("this torch has no learnable fake quantisation")
    x, step = rows(bits)
    scale, most, dy = step.detach().flatten().requires_grad_(), qmax(bits), draw(4, 64, seed=1)
    want = kernel(x, scale, torch.zeros(4), 0, -most - 1, most, 1.0)
    dx, dscale = torch.autograd.grad(want, (x, scale), dy)
    codes = quantize(x.detach(), Grid(step.detach(), None), bits)
    got = gradients(dy, x.detach(), codes, step.detach())
    assert torch.equal(got[0], dx) and got[1].shape == (4, 1)
    assert torch.allclose(got[1].flatten(), dscale, rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("gradients")
@pytest.mark.parametrize("bits", BITS)
def test_gradients_match_the_paper(bits):
    """Equation 3 of Esser et al., number by number in float64: round(v) - v inside, the end where clamped."""
    x, step = (t.detach() for t in rows(bits, torch.float64))
    most, dy = qmax(bits), draw(4, 64, seed=1, dtype=torch.float64)
    v = x / step  # the paper clamps before it rounds, so it holds those within half a step beyond for clamped
    x = torch.where((v > most) & (v <= most + 0.5) | (v < -most - 1) & (v >= -most - 1.5), x / 2, x)
    dx, dstep = gradients(dy, x, quantize(x.float(), Grid(step.float(), None), bits), step)
    for row in range(4):
        total = 0.0
        for i in range(64):
            v, g = (x[row, i] / step[row, 0]).item(), dy[row, i].item()
            part = -most - 1 if v < -most - 1 else most if v > most else -v + round(v)
            total += g * part
            assert dx[row, i].item() == (g if -most - 1 <= v <= most else 0.0)
        assert dstep[row, 0].item() == pytest.approx(total, rel=1e-12)


@pytest.mark.exercise("first_step")
@pytest.mark.parametrize("bits", BITS)
def test_first_step_is_the_best_candidate(bits):
    """For each row by itself the candidate with the smallest squared error, counted in float64."""
    x = draw(5, 48) * torch.tensor([[0.1], [1.0], [1.0], [7.0], [1.0]])
    x[1, 0], x[2], x[4] = 30.0, x[2].sign() * qmax(bits), 0.0  # one far out; all of one size; nothing
    step, most = first_step(x, bits), qmax(bits)
    assert step.shape == (5, 1) and (step > 0).all() and not step.requires_grad
    for i, row in enumerate(x.double()):
        tried = [s[i].double() for s in candidates(x, bits)]
        errors = [((row / s).round().clamp(-most - 1, most) * s - row).square().sum() for s in tried]
        mine = errors[[s.item() for s in tried].index(step[i].item())]
        assert mine <= min(errors) * 1.0001 + 1e-9


@pytest.mark.exercise("first_step")
def test_first_step_matches_the_table_of_max():
    """Normal numbers: the best steps of 16 and of 256 levels that Max (1960) gives, to the next candidate."""
    x = draw(1, 50_000)
    assert first_step(x, 4).item() == pytest.approx(0.335, rel=0.08)
    assert first_step(x, 8).item() == pytest.approx(0.031, rel=0.1)


@pytest.mark.exercise("gradient_scale")
def test_gradient_scale_of_the_paper():
    """1 / √(n Q): 64 numbers at 2 bits share one step."""
    assert gradient_scale(64, 2) == 0.125
    assert gradient_scale(100, 3) == pytest.approx(1 / math.sqrt(300))
    assert gradient_scale(1, 8) == pytest.approx(1 / math.sqrt(127))


def test_a_step_as_it_is_kept():
    """Rounded to float16, never 0 nor negative; its gradient straight through, damped."""
    x = torch.tensor([[0.1, 1.0001, 0.0, -3.0, 1e-9]]).requires_grad_()
    y = Kept.apply(x, 0.25)
    assert torch.equal(y, y.half().float()) and y[0, 1:].tolist() == [1.0] + 3 * [2.0**-14]
    assert y[0, 0].item() == pytest.approx(0.1, rel=1e-3)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.full((1, 5), 0.25))


# ---- observers ----


def ranges(observer, stream):
    """(low, high) after each tensor."""
    found = []
    for x in stream:
        observer.see(x)
        found.append((observer.low.item(), observer.high.item()))
    return found


@pytest.mark.exercise("Observer.see")
@pytest.mark.parametrize("momentum", [None, 0.01, 0.3, 1.0])
def test_matches_torch_observers(momentum):
    """torch.ao's MinMaxObserver and MovingAverageMinMaxObserver, tensor by tensor."""
    observers = pytest.importorskip("torch.ao.quantization.observer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that torchao has taken its place
        theirs = (observers.MinMaxObserver() if momentum is None else
                  observers.MovingAverageMinMaxObserver(averaging_constant=momentum))  # fmt: skip
    mine = Observer(momentum)
    for i in range(6):
        x = (i + 1) * draw(4, 5, seed=i) + i
        mine.see(x)
        theirs(x)
        assert mine.low.item() == pytest.approx(theirs.min_val.item(), rel=1e-6)
        assert mine.high.item() == pytest.approx(theirs.max_val.item(), rel=1e-6)


@pytest.mark.exercise("Observer.see")
def test_observer_by_hand_and_frozen():
    """The widest range, or half of the way to each new one; frozen, it looks no more."""
    stream = [torch.tensor([[-1.0, 3.0]]), torch.tensor([-5.0, 1.0]), torch.tensor([0.0])]
    assert ranges(Observer(), stream) == [(-1, 3), (-5, 3), (-5, 3)]
    half = Observer(0.5)
    assert ranges(half, stream) == [(-1, 3), (-3, 2), (-1.5, 1)]
    half.freeze()
    assert ranges(half, stream) == [(-1.5, 1)] * 3
    assert half.step().item() == pytest.approx(1.5 / 127)


def test_observer_that_has_seen_nothing():
    """No range, no step: refused in one line, as is a range of NaN, and a momentum that makes no sense."""
    with pytest.raises(UserError, match="have not been seen yet"):
        Observer().step()
    with pytest.raises(UserError, match="not with an empty set"):
        Observer().freeze()
    blind = Observer()
    blind.see(torch.tensor([1.0, math.nan]))
    with pytest.raises(UserError, match="not a number"):
        blind.freeze()
    for momentum in (0, -1, 2, math.nan):
        with pytest.raises(UserError, match="momentum is"):
            Observer(momentum)


def test_a_range_of_zeros_has_a_step():
    quiet = Observer()
    quiet.see(torch.zeros(3))
    assert 0 < quiet.step().item() < 1e-6
