"""One layer, computed in several ways on the same numbers: what the benches compare."""

import torch
import torch.nn.functional as F

from . import grouped, moe
from .moe import MoE, MoEConfig, feed_forward


def layer(d_model, d_ff, E, k, device="cpu", dtype=torch.float32, seed=0):
    """A mixture whose k experts are together as large as a feed-forward of d_ff, and that feed-forward."""
    torch.manual_seed(seed)
    made = MoE(d_model, d_ff // k, MoEConfig(experts=E, k=k)).to(device, dtype)
    return made, feed_forward(d_model, d_ff).to(device, dtype)


def routed(made, x, even=True):
    """A Routing for x (N, C): the layer's own, or with all experts equally busy, in a random order."""
    with torch.no_grad():
        said = made.router(x)
    if not even:
        return said
    N, E, k = len(x), made.config.experts, made.config.k
    turns = torch.arange(k, device=x.device) * (E // k) + torch.randint(E, (N, 1), device=x.device)
    return said._replace(experts=turns % E)


def and_back(call, given):
    """call(), and the gradients of what it gives by `given`; both are returned."""

    def both():
        y = call()
        return [y.detach(), *torch.autograd.grad(y.square().sum(), given)]

    return both


def ways(made, dense, stacked, x, routing):
    """{name: call}: the mixture four ways, and the dense layer that costs as much."""
    return {
        "loop": lambda: moe.loop(x, routing, made.experts),
        "mask": lambda: moe.masked(x, routing, made.experts),
        "sorted": lambda: moe.sorted_segments(x, routing, made.experts),
        "grouped": lambda: moe.sorted_segments(x, routing, stacked, grouped.by_counts),
        "dense": lambda: dense(x),
    }


def flops(N, d_model, d_ff, passes=3):
    """Products of a feed-forward of d_ff, forward (1) and backward (2 more)."""
    return passes * 6 * N * d_model * d_ff


def alike(want, got):
    """Outputs of two ways; but for the dense layer's, which computes something else with three matrices."""
    other = any(len(found) == 5 and found[2].dim() == 2 for found in (want, got))
    coarse = torch.bfloat16 in (want[0].dtype, got[0].dtype)
    bound = (0.05 if coarse else 1e-4) * want[0].abs().max()
    return want[0].shape == got[0].shape and bool(other or (want[0] - got[0]).abs().max() <= bound)


def written_out(x, routing, experts):
    """The sum of the paper in float64, every expert on every token: another program than moe.py's."""
    full = torch.zeros(len(x), len(experts), dtype=torch.float64, device=x.device)
    full = full.scatter(1, routing.experts, routing.weights.double())
    parts = [F.silu(x @ e.w_gate.weight.T) * (x @ e.w_up.weight.T) @ e.w_down.weight.T for e in experts]
    return torch.einsum("ne,nec->nc", full, torch.stack(parts, 1))
