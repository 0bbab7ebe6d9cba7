"""The optimisers against torch, bitsandbytes and steps worked by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from phase01_foundation.project03_pretrain.optimizers import (
    AdamW,
    AdEMAMix,
    ForeachAdamW,
    Lion,
    Muon,
    Sophia,
    orthogonalise,
)


def gradients(shapes, steps, seed=0):
    """Gradients of very different sizes, as layers have them, the same for every optimiser."""
    draw = torch.Generator().manual_seed(seed)
    scales = [10.0 ** (-3 * i) for i in range(len(shapes))]
    return [[s * torch.randn(shape, generator=draw) for s, shape in zip(scales, shapes, strict=True)]
            for _ in range(steps)]


SHAPES = [(6, 4), (4,), (3, 8)]


def run(make, shapes=SHAPES, steps=100):
    """The parameters after so many steps on the same gradients, from the same start."""
    draw = torch.Generator().manual_seed(1)
    params = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    optimizer = make(params)
    for step, grads in enumerate(gradients(shapes, steps)):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - step / steps)  # as a schedule would
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in params]


def assert_same(ours, theirs, tolerance=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= tolerance, f"differs by {(a - b).abs().max():.2e}"


SETTINGS = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}


@pytest.mark.exercise("AdamW.update")
def test_matches_torch_adamw():
    """100 steps give the weights that torch's AdamW gives, to a millionth."""
    assert_same(run(lambda p: AdamW(p, **SETTINGS)), run(lambda p: torch.optim.AdamW(p, **SETTINGS)))


@pytest.mark.exercise("AdamW.update")
def test_first_step_of_adamw_is_lr():
    """The first step moves every coordinate by lr against the sign of its gradient, however small the
    gradient."""
    p = nn.Parameter(torch.zeros(3))
    optimizer = AdamW([p], lr=0.1, eps=1e-12, weight_decay=0.0)
    p.grad = torch.tensor([5.0, -1e-4, 0.0])
    optimizer.step()
    assert torch.allclose(p.detach(), torch.tensor([-0.1, 0.1, 0.0]), atol=1e-6)


def test_matches_torch_adamw_all_at_once():
    """The version that moves all parameters at once gives the same weights."""
    assert_same(run(lambda p: ForeachAdamW(p, **SETTINGS)), run(lambda p: torch.optim.AdamW(p, **SETTINGS)))


@pytest.mark.exercise("Lion.update")
def test_lion_by_hand():
    """Two steps worked by hand: the sign of 0.9 m + 0.1 g, then m = 0.99 m + 0.01 g."""
    p = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = Lion([p], lr=0.1, betas=(0.9, 0.99))
    p.grad = torch.tensor([2.0, -3.0, 0.0])
    optimizer.step()
    assert torch.allclose(p.detach(), torch.tensor([0.9, 1.1, 1.0]))
    p.grad = torch.tensor([-0.175, 1.0, 0.5])
    optimizer.step()  # 0.018 - 0.0175 > 0, by a hair; -0.027 + 0.1 > 0; 0 + 0.05 > 0
    assert torch.allclose(p.detach(), torch.tensor([0.8, 1.0, 0.9]))
    m = torch.tensor([0.99 * 0.02 - 0.00175, 0.99 * -0.03 + 0.01, 0.005])
    assert torch.allclose(optimizer.state[p]["m"], m)


@pytest.mark.exercise("Muon.update", "orthogonalise")
@pytest.mark.parametrize("match", [False, True])
def test_matches_torch_muon(match):
    """100 steps give the weights that torch's Muon gives."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon to compare with")
    shapes, adjust = [(6, 4), (4, 16), (5, 5)], "match_rms_adamw" if match else "original"
    ours = run(lambda p: Muon(p, momentum=0.9, weight_decay=0.3, match_adamw=match), shapes)
    theirs = run(lambda p: torch.optim.Muon(p, momentum=0.9, weight_decay=0.3, adjust_lr_fn=adjust), shapes)
    assert_same(ours, theirs, tolerance=1e-5)


@pytest.mark.exercise("orthogonalise")
@pytest.mark.parametrize("shape", [(8, 8), (4, 32), (32, 4)])
def test_all_directions_become_equally_long(shape):
    """The singular values end between 0.6 and 1.3, and the directions stay those of the matrix."""
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    x = orthogonalise(g).float()
    assert x.shape == g.shape
    values = (u.T @ x @ v.T).diagonal()
    assert values[s > 0.05 * s[0]].min() > 0.6 and values.max() < 1.3
    off = u.T @ x @ v.T - torch.diag(values)
    assert off.abs().max() < 0.05


def test_muon_refuses_vectors():
    """A bias has no directions to make equal: the error says to give it to AdamW."""
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match="AdamW"):
        Muon([p]).step()


@pytest.mark.exercise("AdEMAMix.update")
def test_ademamix_without_the_slow_memory_is_adamw():
    """With α = 0 nothing but AdamW is left."""
    settings = {**SETTINGS, "betas": (0.8, 0.95, 0.99)}
    ours = run(lambda p: AdEMAMix(p, alpha=0.0, **settings))
    assert_same(ours, run(lambda p: torch.optim.AdamW(p, **SETTINGS)))


@pytest.mark.exercise("AdEMAMix.update")
def test_ademamix_by_hand():
    """The first step: m̂ = g, slow = (1 - β3) g, √v̂ = |g|, so the step is lr (1 + α (1 - β3)) against the
    sign."""
    p = nn.Parameter(torch.zeros(2))
    optimizer = AdEMAMix([p], lr=0.1, betas=(0.9, 0.99, 0.9), alpha=5.0, eps=0.0, weight_decay=0.0)
    p.grad = torch.tensor([3.0, -0.2])
    optimizer.step()
    assert torch.allclose(p.detach(), torch.tensor([-0.15, 0.15]))
    p.grad = torch.tensor([3.0, 0.2])
    optimizer.step()  # second coordinate: m̂ = (0.1 · -0.18 + ...)
    m_hat = (0.9 * 0.1 * -0.2 + 0.1 * 0.2) / (1 - 0.81)
    slow, size = 0.9 * 0.1 * -0.2 + 0.1 * 0.2, 0.2
    assert math.isclose(p[1].item(), 0.15 - 0.1 * (m_hat + 5 * slow) / size, rel_tol=1e-5)


def test_ademamix_warms_up_alpha_and_beta3():
    """At the end of the warm-up both have their full value; in its middle α is half and the half-life is
    between."""
    group = {"betas": (0.9, 0.999, 0.9999), "alpha": 8.0, "warmup": 100}
    assert AdEMAMix.schedule(100, group) == (8.0, 0.9999)
    alpha, beta3 = AdEMAMix.schedule(50, group)
    half = lambda beta: math.log(0.5) / math.log(beta)  # noqa: E731
    assert alpha == 4.0 and math.isclose(half(beta3), (half(0.9) + half(0.9999)) / 2, rel_tol=1e-3)
    assert AdEMAMix.schedule(1000, group) == (8.0, 0.9999)


@pytest.mark.parametrize("name", ["Lion", "AdEMAMix"])
def test_matches_bitsandbytes(name):
    """The library that most people run Lion and AdEMAMix from gives the same weights."""
    bnb = pytest.importorskip("bitsandbytes", reason="the extra finetune is not installed")
    settings = {"betas": (0.9, 0.98), "weight_decay": 0.1} if name == "Lion" else {
        "betas": (0.9, 0.98, 0.995), "alpha": 3.0, "weight_decay": 0.1}  # fmt: skip
    ours = {"Lion": Lion, "AdEMAMix": AdEMAMix}[name]
    shapes = [(64, 80), (5000,)]
    try:
        library = getattr(bnb.optim, name)
        theirs = run(lambda p: library(p, lr=0.01, min_8bit_size=10**9, **settings), shapes, steps=30)
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"this bitsandbytes has no 32-bit {name} on the CPU: {error}")
    assert_same(run(lambda p: ours(p, lr=0.01, **settings), shapes, steps=30), theirs, tolerance=2e-6)


@pytest.mark.exercise("Sophia.update")
def test_sophia_on_three_steps_by_hand():
    """The paper's update on three steps: m = β1 m + (1 - β1) g, a step of lr · clip(m / max(γ h, ε), 1)."""
    p = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = Sophia([p], lr=0.1, betas=(0.5, 0.5), gamma=2.0, eps=1e-12, weight_decay=0.0)
    p.grad = torch.tensor([0.2, 2.0])  # ĝ of the sampled targets; h = 0.5 · 0 + 0.5 · 10 · ĝ²
    optimizer.look(n_tokens=10)
    assert torch.allclose(optimizer.state[p]["h"], torch.tensor([0.2, 20.0]))
    steps = [
        ([0.4, 8.0], [0.95, 0.99]),  # m = 0.2 and 4: 0.2 / 0.4 = 0.5; 4 / 40 = 0.1
        ([3.0, 8.0], [0.85, 0.975]),  # m = 1.6 and 6: 1.6 / 0.4 = 4, clipped to 1; 6 / 40 = 0.15
        ([-9.0, 0.0], [0.95, 0.9675]),  # m = -3.7 and 3: clipped to -1; 3 / 40 = 0.075
    ]
    for grad, expected in steps:
        p.grad = torch.tensor(grad)
        optimizer.step()
        assert torch.allclose(p.detach(), torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("make", [AdamW, Lion, AdEMAMix, Muon, Sophia, ForeachAdamW])
def test_weight_decay_is_decoupled(make):
    """Without a gradient a parameter shrinks by lr · weight_decay a step: decay does not pass through m and
    v."""
    p = nn.Parameter(torch.full((2, 2), 4.0))
    optimizer = make([p], lr=0.1, weight_decay=0.5)
    p.grad = torch.zeros(2, 2)
    optimizer.step()
    assert torch.allclose(p.detach(), torch.full((2, 2), 4.0 * 0.95))


@pytest.mark.parametrize("make", [AdamW, Lion, AdEMAMix, Muon, Sophia, ForeachAdamW])
def test_a_saved_optimizer_goes_on_alike(make):
    """State that goes through state_dict continues as if nothing had happened."""
    def fresh():
        p = nn.Parameter(torch.ones(3, 3))
        return p, make([p], lr=0.01)

    (p, a), (q, b) = fresh(), fresh()
    grads = gradients([(3, 3)], 6)
    for (g,) in grads[:3]:
        p.grad = g.clone()
        a.step()
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    q.data.copy_(p.data)
    for (g,) in grads[3:]:
        p.grad, q.grad = g.clone(), g.clone()
        a.step()
        b.step()
    assert torch.equal(p, q)
