"""The sides that the scripts compare, for the seam: written out, torch's, tile by tile, the kernel."""

import torch
import torch.nn.functional as F

from common import model
from common.cli.extras import command

from . import tiled

SIDES = {"materialised": tiled.plain, "torch's SDPA": model.attend, "tiled": tiled.attend}


def kernel(head_dim, say):
    """The module of the Triton kernels; None, with a line that says why, where they cannot be had."""
    try:
        from . import triton_kernel
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        say(f"triton is not installed, so the kernel is left out: the extra kernels, {command('kernels')}")
        return None
    if head_dim not in triton_kernel.HEAD_DIMS:
        say(f"the kernel has head_dim {triton_kernel.HEAD_DIMS} and this model {head_dim}: it is left out")
        return None
    return triton_kernel


def causal(T, device="cpu"):
    """reach (1, T) of a row without a cache."""
    return torch.arange(1, T + 1, device=device)[None]


def inputs(B, H, K, T, D, *, device="cpu", dtype=torch.float32, seed=0, gradients=False):
    """q (B, H, T, D), k and v (B, K, T, D), normal."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((B, n, T, D) for n in (H, K, K))
    drawn = [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]
    return [x.requires_grad_(gradients) for x in drawn]


def sides_of(q, k, v, size=tiled.TILE):
    """{name: a call that computes causal attention of these, without the model around it}"""
    T, gqa = q.size(2), q.size(1) != k.size(1)
    look, reach = torch.ones(T, T, dtype=torch.bool, device=q.device).tril(), causal(T, q.device)
    return {
        "materialised": lambda: tiled.materialised(q, k, v, look),
        "torch's SDPA": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa),
        "tiled": lambda: tiled.flash(q, k, v, reach, size=size),
    }


def and_back(call, inputs):
    """The same call, and the gradients of its inputs."""
    return lambda: torch.autograd.grad(call().sum(), inputs)
