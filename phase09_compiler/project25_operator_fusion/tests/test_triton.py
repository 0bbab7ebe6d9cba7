"""The Triton kernels in the interpreter: against torch's functions, autograd and AdamW, in three types."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny

pytest.importorskip("triton")

from phase09_compiler.project25_operator_fusion import (
    _gpu,
    linear_cross_entropy,
    triton_adamw,
    triton_cross_entropy,
    triton_norm,
    triton_rope,
    triton_rows,
    triton_softmax,
    triton_swiglu,
)
from phase09_compiler.project25_operator_fusion.chains import rotate
from phase09_compiler.project25_operator_fusion.fused import fuse

DEVICE = triton_rows.DEVICE


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def both(fn, inputs):
    """What fn gives, and what flows back to each input under a weight that no sum can hide."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    found = fn(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    total = sum((y * torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)).sum() for y in found)
    return [*found, *torch.autograd.grad(total, inputs)]


def alike(mine, want, inputs, dtype=torch.float32, **tolerances):
    """Both agree in values and gradients; the truth is in float64, the tolerance that of the type."""
    exact = both(want, [x.double() for x in inputs])
    for i, (a, b) in enumerate(zip(both(mine, inputs), exact, strict=True)):
        assert a.dtype == dtype
        close(a, b, f"result {i}, and gradients from there on", **tolerances)


def plain_norm(x, residual, weight):
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, 1e-3), total


@pytest.mark.exercise("norm_row")
def test_matches_rms_norm():
    """Width 37, which no block divides; rows of very different size: eps counts in one of them."""
    x, weight = draw(3, 37) * torch.tensor([[1e-2], [1.0], [1e3]], device=DEVICE), draw(37, seed=1)
    got = triton_norm.rms_norm(x, weight, 1e-3)
    close(got, F.rms_norm(x.double(), (37,), weight.double(), 1e-3), "alone")
    normed, total = triton_norm.add_rms_norm(x, 2 * x, weight, 1e-3)
    close(total, 3 * x, "the sum")
    close(normed, F.rms_norm(3 * x.double(), (37,), weight.double(), 1e-3), "after the sum")


@pytest.mark.exercise("norm_row_back")
def test_matches_gradients_of_rms_norm():
    """Seven rows over three programs: each walks over its own, and the gain's gradient is all of them."""
    alike(lambda *a: triton_norm.add_rms_norm(*a, 1e-3), plain_norm, (draw(7, 37), draw(7, 37, seed=1),
                                                                     draw(37, seed=2)))  # fmt: skip
    alike(lambda x, w: triton_norm.rms_norm(x, w, 1e-3), lambda x, w: F.rms_norm(x, w.shape, w, 1e-3),
          (draw(2, 2, 5), draw(5, seed=1)))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_types(dtype):
    """Within two neighbouring numbers of the type: the interpreter truncates bfloat16."""
    x, residual, weight = (
        draw(4, 40, dtype=dtype),
        draw(4, 40, seed=1, dtype=dtype),
        draw(40, seed=2, dtype=dtype),
    )
    near = {"rtol": 2e-2, "atol": 4e-2}
    alike(lambda *a: triton_norm.add_rms_norm(*a, 1e-3), plain_norm, (x, residual, weight), dtype, **near)
    gates = lambda y: F.silu(y[..., :20]) * y[..., 20:]  # noqa: E731
    alike(triton_swiglu.swiglu, gates, (x,), dtype, **near)


def test_matches_rotate_and_back():
    """The core's own rotation: rows at one place and at different ones; what is not turned is not touched."""
    x = draw(2, 3, 5 * 6)
    for shape in ((1, 3, 3), (2, 1, 3, 3)):
        angles = draw(*shape, seed=1)
        rope = angles.cos(), angles.sin()
        alike(lambda y, r=rope: triton_rope.rotate(y, r, 4), lambda y, r=rope: rotate(y, r, 4), (x,))
        close(triton_rope.rotate(x, rope, 4)[..., 24:], x[..., 24:], "the last head")


def test_matches_silu_and_softmax():
    """torch's own, forward and back; a row with -inf in it, and one of large numbers."""
    alike(triton_swiglu.swiglu, lambda x: F.silu(x[..., :9]) * x[..., 9:], (draw(2, 3, 18),))
    x = 50 * draw(4, 33)
    x[1, 5] = -torch.inf
    alike(triton_softmax.softmax, lambda y: y.softmax(-1), (x,))


@pytest.mark.exercise("log_sum")
def test_matches_logsumexp():
    """70 logits pass by in blocks of 32: growing, falling, and so large that exp of them is no number."""
    ramp = torch.arange(70.0, device=DEVICE)
    logits = torch.stack((ramp, -ramp, 100 * draw(70), draw(70)))
    loss, lse = triton_cross_entropy.rows(logits, torch.tensor([69, 0, 33, 64], device=DEVICE))
    close(lse, logits.double().logsumexp(-1), "lse")
    want = F.cross_entropy(logits.double(), torch.tensor([69, 0, 33, 64], device=DEVICE), reduction="none")
    close(loss, want, "loss", rtol=1e-5, atol=1e-4)


@pytest.mark.exercise("block_gradient")
def test_matches_gradients_of_cross_entropy():
    """The mean over targets; one is left out; the gradient may take the place of the logits."""
    logits, targets = 3 * draw(5, 70), torch.tensor([3, 0, -100, 69, 40], device=DEVICE)
    alike(
        lambda x: triton_cross_entropy.cross_entropy(x, targets),
        lambda x: F.cross_entropy(x, targets),
        (logits,),
    )
    wanted = logits.double().requires_grad_()
    (want,) = torch.autograd.grad(F.cross_entropy(wanted, targets, reduction="sum"), wanted)
    _, lse = triton_cross_entropy.rows(logits, targets)
    got = triton_cross_entropy.gradient_(logits, targets, lse, torch.ones(5, device=DEVICE))
    assert got is logits
    close(got, want, "in place")


@pytest.mark.exercise("adamw_block")
def test_matches_adamw():
    """Four updates, with decay, beside torch's; 1,030 numbers are more than one program's."""
    ours = [torch.nn.Parameter(draw(shape)) for shape in (1030, 3)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    about = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.3}
    a, b = triton_adamw.AdamW(ours, **about), torch.optim.AdamW(theirs, **about)
    for i in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = draw(len(p), seed=i + 1)
            q.grad = p.grad.clone()
        a.step()
        b.step()
        for p, q in zip(ours, theirs, strict=True):
            close(p, q, f"after {i + 1} updates")


def test_matches_the_model_when_it_trains():
    """Loss and every gradient of a model with all kernels, chunked loss included, beside the plain one."""
    torch.manual_seed(0)
    plain = GPT(tiny(n_layer=1)).to(DEVICE)
    ours, tokens = GPT(plain.config).to(DEVICE), torch.randint(97, (1, 7), device=DEVICE)
    ours.load_state_dict(plain.state_dict())
    fuse(ours, _gpu.kernels())
    want = F.cross_entropy(plain(tokens[:, :-1])[0], tokens[0, 1:])
    hidden = ours.hidden(tokens[:, :-1])[0]
    got = linear_cross_entropy.linear_cross_entropy(
        hidden, ours.head.weight, tokens[0, 1:], _gpu.kernels(), 4
    )
    pairs = [torch.autograd.grad(loss, list(m.parameters())) for loss, m in ((got, ours), (want, plain))]
    close(got, want, "loss")
    for (name, _), a, b in zip(plain.named_parameters(), *pairs, strict=True):
        close(a, b, name)


def test_what_the_kernels_do_not_take_is_refused():
    with pytest.raises(UserError, match="float64: use chains"):
        triton_softmax.softmax(torch.zeros(2, 2, dtype=torch.float64, device=DEVICE))
    with pytest.raises(UserError, match="more than a program can hold"):
        triton_softmax.softmax(torch.zeros(1, 70_000, device=DEVICE))
    with pytest.raises(UserError, match=r"give \(N, V\)"):
        triton_cross_entropy.rows(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_here():
    """Triton's compiler takes every kernel to machine code for a Hopper GPU; none is needed for that."""
    done = subprocess.run([sys.executable, Path(__file__).with_name("compile_kernels.py")], text=True,
                          capture_output=True, env={**os.environ, "TRITON_INTERPRET": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.split()) == 10


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_at_size(dtype):  # pragma: no cover - gpu
    """Compiled, for sizes of a real model: torch's results to the type's tolerance."""
    near = {"rtol": 2e-2, "atol": 2e-1} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-3}
    x, y, w = (
        draw(512, 4096, dtype=dtype),
        draw(512, 4096, seed=1, dtype=dtype),
        draw(4096, seed=2, dtype=dtype),
    )
    alike(lambda *a: triton_norm.add_rms_norm(*a, 1e-3), plain_norm, (x, y, w), dtype, **near)
    targets = torch.randint(4096, (512,), device=DEVICE)
    loss = triton_cross_entropy.cross_entropy(x, targets)
    close(loss.float(), F.cross_entropy(x.float(), targets), "loss", rtol=1e-3, atol=1e-3)
