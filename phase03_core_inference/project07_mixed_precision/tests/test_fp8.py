"""Eight bits: rounding and products beside torch's own, the history by hand, gradients beside float32."""

import copy

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.model import GPT
from common.testing import tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase03_core_inference.project07_mixed_precision import fp8
from phase03_core_inference.project07_mixed_precision.fp8 import (
    E4M3,
    E5M2,
    Fp8Linear,
    delayed_scale,
    gradients,
    product,
    to_fp8,
    with_fp8,
)
from phase03_core_inference.project07_mixed_precision.mixed_precision import Policy, mixed


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.exercise("to_fp8")
def test_rounds_as_torch_does_and_cuts():
    """Within the range what torch's cast gives; beyond it the end of the range, and no NaN."""
    for dtype, end in ((E4M3, 448.0), (E5M2, 57344.0)):
        x = draw(64)
        assert torch.equal(to_fp8(x, 4.0, dtype).float(), (4 * x).to(dtype).float())
        far = torch.tensor([1e9, -1e9, 3.0])
        assert to_fp8(far, 1.0, dtype).float().tolist() == [end, -end, 3.0]
    assert to_fp8(draw(3).bfloat16(), 1.0, E4M3).dtype == E4M3


@pytest.mark.exercise("delayed_scale")
def test_scale_comes_from_the_steps_before():
    """The largest of the last three, without the present one; at first the present one."""
    history, seen = torch.zeros(3), []
    for x in (2.0, -8.0, 4.0, 1.0, 1.0, 1.0, 16.0):
        seen.append(448 / delayed_scale(torch.tensor([x, -0.1]), history, E4M3).item())
    assert seen == [2.0, 2.0, 8.0, 8.0, 8.0, 4.0, 1.0]
    assert history.tolist() == [16.0, 1.0, 1.0]


@pytest.mark.exercise("delayed_scale")
def test_scale_of_nothing_and_of_an_overflow():
    """Zeros have a scale of 1; inf and NaN do not stay; what is too small to be scaled up has 1 as well."""
    for nothing in (0.0, 1e-40, float("inf"), float("nan")):
        assert delayed_scale(torch.tensor([nothing]), torch.zeros(4), E5M2).item() == 1.0
    for bad in (float("inf"), float("nan")):
        history = torch.zeros(4)
        for x in (1.0, bad):
            delayed_scale(torch.tensor([x]), history, E5M2)
        assert delayed_scale(torch.tensor([1.0]), history, E5M2).item() == 57344.0


def test_a_history_of_nothing_is_refused():
    with pytest.raises(UserError, match="length is 0"):
        Fp8Linear(nn.Linear(2, 2), length=0)


@pytest.mark.exercise("product")
def test_product_is_that_of_the_rounded_matrices():
    """Summed in float32, both scales taken off: as exact as float64's product of the same 8-bit numbers."""
    a, b = to_fp8(draw(8, 4096), 20.0, E4M3), to_fp8(draw(6, 4096, seed=1), 50.0, E4M3)
    exact = a.double() @ b.double().T / 1000
    got = product(a, b, 20.0, 50.0, torch.float32)
    assert got.dtype == torch.float32 and torch.allclose(got.double(), exact, atol=1e-3)
    assert torch.equal(product(a, b, 20.0, 50.0, torch.bfloat16), got.bfloat16())


def test_matches_torch_scaled_mm():
    """torch's own scaled product of float8 matrices, where this torch has one for the CPU."""
    a, b = to_fp8(draw(16, 32), 20.0, E4M3), to_fp8(draw(48, 32, seed=1), 50.0, E4M3)
    scales = torch.tensor(20.0), torch.tensor(50.0)
    try:
        want = fp8.fast_product(a, b, *scales, torch.float32)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"no torch._scaled_mm here: {error}")
    assert torch.allclose(product(a, b, *scales, torch.float32), want, atol=1e-4)


@pytest.mark.gpu
def test_matches_torch_scaled_mm_on_a_gpu():
    a, b = to_fp8(draw(16, 32), 20.0, E4M3).cuda(), to_fp8(draw(48, 32, seed=1), 50.0, E4M3).cuda()
    if not fp8.native(a.device):
        pytest.skip("this GPU has no float8 units")
    scales = torch.tensor(20.0).cuda(), torch.tensor(50.0).cuda()
    got = fp8.multiply(a, b, *scales, torch.bfloat16)
    assert torch.allclose(got.float(), product(a, b, 20.0, 50.0, torch.float32), rtol=0.01, atol=0.01)


@pytest.mark.exercise("gradients")
def test_gradients_are_near_those_of_float32():
    """dx and dweight within the rounding of 8 bits; small gradients beside large ones are kept (e5m2)."""
    x, weight, dy = draw(32, 16), draw(8, 16, seed=1), draw(32, 8, seed=2)
    dy[:16] *= 1e-5  # half of the rows
    x8, weight8 = to_fp8(x, 64.0, E4M3), to_fp8(weight, 16.0, E4M3)
    types = (torch.float32, torch.float32)
    dx, dweight = gradients(dy, x8, weight8, 64.0, 16.0, torch.zeros(16), types)
    for got, want in ((dx, dy @ weight), (dweight, dy.T @ x), (dx[:16], dy[:16] @ weight)):
        assert got.shape == want.shape and (got - want).norm() < 0.15 * want.norm()


def test_linear_is_near_float32_and_learns():
    """Forward within 8 bits of the old layer; both gradients; ten steps lower the loss."""
    torch.manual_seed(0)
    old = nn.Linear(32, 16)
    layer, x = Fp8Linear(old, torch.float32), draw(4, 6, 32).requires_grad_()
    want, got = old(x), layer(x)
    assert got.shape == want.shape and (got - want).norm() < 0.06 * want.norm()
    got.square().mean().backward()
    assert layer.weight.grad.dtype == torch.float32 and x.grad.isfinite().all()
    optimizer, losses = torch.optim.SGD(layer.parameters(), lr=1.0), []
    for _ in range(10):
        loss = layer(x.detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_is_on_in_the_model():
    """Blocks in 8 bits, the head in 16; every layer has seen its three tensors after one step."""
    torch.manual_seed(0)
    model = mixed(with_fp8(GPT(tiny(vocab_size=32))), Policy())
    layers = [module for module in model.modules() if isinstance(module, Fp8Linear)]
    assert len(layers) == 7 * len(model.blocks) and not isinstance(model.head, Fp8Linear)
    tokens = torch.randint(32, (2, 9))
    CausalLM(model)((tokens[:, :-1], tokens[:, 1:])).backward()
    for layer in layers:
        assert all((history > 0).tolist() == [True] + 15 * [False] for history in layer.buffers())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_a_compiler_sees_one_graph():
    """Compiled whole, forward and back: the same loss, gradients and histories, step after step."""
    torch.manual_seed(0)
    plain = mixed(with_fp8(GPT(tiny(vocab_size=32, n_layer=1))), Policy())
    one, two = CausalLM(plain), CausalLM(copy.deepcopy(plain))
    compiled = torch.compile(two, backend="aot_eager", fullgraph=True)
    tokens = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        losses = [objective((tokens[:, :-1], tokens[:, 1:])) for objective in (one, compiled)]
        for loss in losses:
            loss.backward()
        assert torch.equal(*losses)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    histories = list(zip(one.buffers(), two.buffers(), strict=True))
    assert len(histories) == 21
    for mine, theirs in histories:
        assert torch.equal(mine, theirs) and (mine > 0).tolist() == 3 * [True] + 13 * [False]
