"""Cross-entropy in Triton: the loss of a row of any length in one walk, its gradient in another.

Before: `chains.cross_entropy`, where a row of V logits is written anew for the maximum, the exponentials, the
logarithms. New here: a row passes by in blocks, with the largest logit so far and the sum of exponentials so
far; a larger one rescales the sum (project 9's trick). Of a row two numbers stay: its loss and its lse. From
lse any part of the gradient can be had alone, and it may take the place of the logits."""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from triton.language import constexpr

from common.exercise import exercise

from .chains import check_targets, counted
from .triton_rows import INTERPRETED, ready, tl_max, tl_sum

BLOCK = 32 if INTERPRETED else 4096  # logits at a time: few, so that small tests walk too


@triton.jit
@exercise
def log_sum(row, V, BLOCK: constexpr):
    """The log of the sum of exp(logits) of one row: `row` points to its V logits, in memory.

    Block by block, `tl.load(row + c, mask=c < V, other=float("-inf"))`, with the largest logit and the sum
    so far. float32.
    """
    largest, total = float("-inf"), 0.0
    for start in range(0, V, BLOCK):
        c = start + tl.arange(0, BLOCK)
        values = tl.load(row + c, mask=c < V, other=float("-inf")).to(tl.float32)
        new = tl.maximum(largest, tl_max(values, 0))
        total = total * tl.exp(largest - new) + tl_sum(tl.exp(values - new), 0)
        largest = new
    return largest + tl.log(total)


@triton.jit
def loss_kernel(logits, targets, loss, lse, V, BLOCK: constexpr):
    """Row program_id(0): lse, and the loss, which is 0 for a target below 0."""
    row = tl.program_id(0).to(tl.int64)
    total, target = log_sum(logits + row * V, V, BLOCK), tl.load(targets + row)
    asked = tl.load(logits + row * V + tl.maximum(target, 0)).to(tl.float32)
    tl.store(lse + row, total)
    tl.store(loss + row, tl.where(target < 0, 0.0, total - asked))


@triton.jit
@exercise
def block_gradient(values, c, target, lse, scale):
    """The gradient of one row's loss for its logits `values` (BLOCK,), which stand in columns c (BLOCK,).

    scale times (softmax less one at the target); all 0 for a target below 0. lse: the row's; float32.
    """
    grad = tl.exp(values - lse) - tl.where(c == target, 1.0, 0.0)
    return tl.where(target < 0, 0.0, grad * scale)


@triton.jit
def gradient_kernel(logits, targets, lse, scale, out, V, BLOCK: constexpr):
    """Block program_id(1) of row program_id(0); out may be the logits."""
    row, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(logits + row * V + c, mask=c < V, other=0.0).to(tl.float32)
    grad = block_gradient(values, c, tl.load(targets + row), tl.load(lse + row), tl.load(scale + row))
    tl.store(out + row * V + c, grad.to(out.dtype.element_ty), mask=c < V)


def rows(logits, targets):
    """As `chains.rows`: logits (N, V), targets (N,) -> (loss, lse), both (N,), float32."""
    check_targets(logits, targets)
    (logits,), (N, V) = ready(logits), logits.shape
    loss, lse = (logits.new_empty(N, dtype=torch.float32) for _ in range(2))
    loss_kernel[(N,)](logits, targets.contiguous(), loss, lse, V, BLOCK=BLOCK)
    return loss, lse


def gradient(logits, targets, lse, scale, out):
    """scale (N,) times (softmax less one-hot) into out (N, V), which may be the logits; returns out."""
    (N, V), scale = logits.shape, scale.float().expand(len(targets)).contiguous()
    gradient_kernel[(N, triton.cdiv(V, BLOCK))](logits, targets.contiguous(), lse, scale, out, V, BLOCK=BLOCK)
    return out


def gradient_(logits, targets, lse, scale):
    """As `chains.gradient_`; logits contiguous."""
    return gradient(logits, targets, lse, scale, logits)


class CrossEntropy(torch.autograd.Function):
    """(logits (N, V), targets (N,)) -> the losses (N,)"""

    @staticmethod
    def forward(ctx, logits, targets):
        logits = logits.contiguous()
        loss, lse = rows(logits, targets)
        ctx.save_for_backward(logits, targets, lse)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        logits, targets, lse = ctx.saved_tensors
        return gradient(logits, targets, lse, dloss, torch.empty_like(logits)), None


def cross_entropy(logits, targets):
    """As `chains.cross_entropy`: the mean over the targets that are not below 0."""
    return CrossEntropy.apply(logits, targets).sum() / counted(targets)
