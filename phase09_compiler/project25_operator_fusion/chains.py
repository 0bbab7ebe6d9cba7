"""Chains of small operations, as PyTorch runs them: one kernel a line, each through main memory.

Before: the model as it is. Every `=` below reads its inputs from memory and writes a whole tensor back, for
one or two operations on each number: memory is what it waits for. New in this project: each chain as one
kernel, that reads what goes in once and writes what comes out once. These are the text, and the oracle.

What a kernel must do is said here alone; `cpp_ops.py` and the files `triton_…` do the same with the same
arguments and shapes, and `fused.py` puts either into the model. C, D, T as in `common/model.py`; F is d_ff.
Zhang and Sennrich 2019, 1910.07467 (RMSNorm); Su et al. 2021, 2104.09864 (RoPE); Shazeer 2020, 2002.05202
(SwiGLU); Loshchilov and Hutter 2019, 1711.05101 (AdamW)."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from common.errors import demand


class Kernels(NamedTuple):
    """What a file of kernels offers to `fused.py`, by the names of the functions below, and on which device.

    product and gated are for a single token without gradients; None: a torch product does instead.
    """

    device: str
    rms_norm: Callable
    add_rms_norm: Callable
    rotate: Callable
    swiglu: Callable
    softmax: Callable
    cross_entropy: Callable
    rows: Callable
    gradient_: Callable
    product: Callable | None = None
    gated: Callable | None = None


def rms_norm(x, weight, eps):
    """x (…, C), weight (C,) -> (…, C)"""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    squares = wide * wide
    mean = squares.mean(-1, keepdim=True)  # (…, 1)
    rstd = (mean + eps).rsqrt()
    return (wide * rstd * weight).type_as(x)


def add_rms_norm(x, residual, weight, eps):
    """The residual sum and the norm after it, x and residual (…, C) -> (normed, total), both (…, C)."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def rotate(qkv, rope, turned):
    """qkv (B, T, N D): the first `turned` of N heads by their positions' angles, the others as they are.

    rope: (cos, sin), (1, T, D/2) or (B, 1, T, D/2), as `common.model.Rope` gives them.
    """
    cos, sin = (angle.squeeze(1)[..., None, :] if angle.dim() == 4 else angle[..., None, :] for angle in rope)
    heads = qkv.unflatten(-1, (-1, 2 * cos.size(-1)))  # (B, T, N, D)
    wide = heads[:, :, :turned].to(torch.promote_types(qkv.dtype, torch.float32))
    a, b = wide.chunk(2, -1)  # (B, T, turned, D/2)
    done = torch.cat((a * cos - b * sin, b * cos + a * sin), -1).type_as(qkv)
    return torch.cat((done, heads[:, :, turned:]), 2).flatten(2)


def swiglu(x):
    """x (…, 2F), the gate beside what it lets through -> (…, F)"""
    gate, up = x.chunk(2, -1)
    share = gate.sigmoid()
    return gate * share * up


def softmax(x):
    """x (…, C) -> (…, C), each row adding up to one."""
    largest = x.amax(-1, keepdim=True)
    powers = (x - largest).exp()
    return powers / powers.sum(-1, keepdim=True)


def rows(logits, targets):
    """logits (N, V), targets (N,) -> (loss, lse), both (N,): lse is the log of the sum of exp(logits).

    A target below 0 is left out: its loss is 0. Sums are float32, or float64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    lse = logits.logsumexp(-1)
    asked = logits.gather(1, targets.clamp_min(0)[:, None]).squeeze(1)
    return torch.where(targets < 0, 0.0, lse - asked), lse


def gradient_(logits, targets, lse, scale):
    """Put the gradient of the loss in place of the logits (N, V): scale (N,) times softmax less one-hot."""
    scale = torch.where(targets < 0, 0.0, scale)
    probabilities = (logits - lse[:, None]).exp_() * scale[:, None]
    probabilities.scatter_add_(1, targets.clamp_min(0)[:, None], -scale.to(probabilities.dtype)[:, None])
    return logits.copy_(probabilities)


def cross_entropy(logits, targets):
    """The mean loss of logits (N, V) over the targets (N,) that are not below 0."""
    return rows(logits, targets)[0].sum() / counted(targets)


def counted(targets):
    """How many targets count; at least 1, so that a batch of none has loss 0 and no NaN."""
    return (targets >= 0).sum().clamp_min(1)


def adamw(p, g, m, v, *, lr, betas, eps, decay, step):
    """One update of p by its gradient g, with both moments, in place; step counts from 1."""
    m.mul_(betas[0]).add_((1 - betas[0]) * g)
    v.mul_(betas[1]).add_((1 - betas[1]) * g * g)
    root = (v / (1 - betas[1] ** step)).sqrt() + eps
    p.mul_(1 - lr * decay).sub_(lr / (1 - betas[0] ** step) * m / root)


def check_targets(logits, targets):
    """UserError unless logits are (N, V) and targets (N,), ids."""
    fits = logits.dim() == 2 and targets.shape == logits.shape[:1]
    demand(fits, f"logits {tuple(logits.shape)}, targets {tuple(targets.shape)}: give (N, V) and (N,)")
    demand(targets.dtype == torch.int64, f"targets are ids, int64, not {targets.dtype}")


def product(x, weight):
    """x (…, C) of one token, weight (N, C) -> (…, N)"""
    return (weight * x.flatten()).sum(-1).view(*x.shape[:-1], -1)


def gated(x, gate, up):
    """x (…, C) of one token, gate and up (F, C) -> (…, F): two products, and SwiGLU of them."""
    return swiglu(torch.cat((product(x, gate), product(x, up)), -1))


KERNELS = Kernels("", rms_norm, add_rms_norm, rotate, swiglu, softmax, cross_entropy, rows, gradient_)
