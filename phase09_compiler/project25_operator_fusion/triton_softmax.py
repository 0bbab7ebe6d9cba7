"""Softmax in Triton: a row stays on the chip from its maximum to its division.

Before: `chains.softmax`, five kernels, that read the row four times. New here: it is read once and written
once. Rows must fit into a program's registers; a longer one needs the running sum of `triton_cross_entropy`
(or of project 9, which is the same one)."""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from triton.language import constexpr

from .triton_rows import ready, tl_max, tl_sum, whole_row


@triton.jit
def forward_kernel(x, y, C, BLOCK: constexpr):
    """Row program_id(0) of x (rows, C)."""
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    values = tl.load(x + row * C + c, mask=c < C, other=float("-inf")).to(tl.float32)
    powers = tl.exp(values - tl_max(values, 0))
    tl.store(y + row * C + c, (powers / tl_sum(powers, 0)).to(y.dtype.element_ty), mask=c < C)


@triton.jit
def backward_kernel(dy, y, dx, C, BLOCK: constexpr):
    """dx = y (dy - sum of dy y): shares that add up to one cannot all grow."""
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    back = tl.load(dy + row * C + c, mask=c < C, other=0.0).to(tl.float32)
    shares = tl.load(y + row * C + c, mask=c < C, other=0.0).to(tl.float32)
    grad = shares * (back - tl_sum(back * shares, 0))
    tl.store(dx + row * C + c, grad.to(dx.dtype.element_ty), mask=c < C)


class Softmax(torch.autograd.Function):
    """x (…, C) -> (…, C)"""

    @staticmethod
    def forward(ctx, x):
        (x,), C = ready(x), x.size(-1)
        y = torch.empty_like(x)
        forward_kernel[(x.numel() // C,)](x, y, C, **whole_row(C))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx, C = torch.empty_like(y), y.size(-1)
        backward_kernel[(y.numel() // C,)](dy.contiguous(), y, dx, C, **whole_row(C))
        return dx


def softmax(x):
    """As `chains.softmax`: over the last axis."""
    return Softmax.apply(x)
