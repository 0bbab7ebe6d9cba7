"""SwiGLU in Triton: the simplest kernel of all, and so the one to read first.

Before: `chains.swiglu`, three kernels that move 8 F numbers to a row. New here: 2 F in, F out. Going
back, the share that the gate lets through is computed again: cheaper than to have kept it."""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from triton.language import constexpr

from .triton_rows import ready

BLOCK = 1024  # numbers of a row to one program


@triton.jit
def forward_kernel(x, y, F, BLOCK: constexpr):
    """Columns of y (rows, F) from x (rows, 2F): gate in the first half, up in the second."""
    row, f = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = f < F
    gate = tl.load(x + row * 2 * F + f, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * F + F + f, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * F + f, (gate / (1.0 + tl.exp(-gate)) * up).to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(dy, x, dx, F, BLOCK: constexpr):
    """dx (rows, 2F): d gate = dy up s (1 + gate (1 - s)) and d up = dy gate s, with s the sigmoid of gate."""
    row, f = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, half = f < F, row * 2 * F + f
    gate = tl.load(x + half, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + half + F, mask=inside, other=0.0).to(tl.float32)
    back = tl.load(dy + row * F + f, mask=inside, other=0.0).to(tl.float32)
    s = 1.0 / (1.0 + tl.exp(-gate))
    tl.store(dx + half, (back * up * s * (1.0 + gate * (1.0 - s))).to(dx.dtype.element_ty), mask=inside)
    tl.store(dx + half + F, (back * gate * s).to(dx.dtype.element_ty), mask=inside)


class SwiGLU(torch.autograd.Function):
    """x (…, 2F) -> (…, F)"""

    @staticmethod
    def forward(ctx, x):
        (x,), F = ready(x), x.size(-1) // 2
        y = x.new_empty(*x.shape[:-1], F)
        forward_kernel[(x.numel() // (2 * F), triton.cdiv(F, BLOCK))](x, y, F, BLOCK=BLOCK)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        dx, F = torch.empty_like(x), x.size(-1) // 2
        backward_kernel[(x.numel() // (2 * F), triton.cdiv(F, BLOCK))](dy.contiguous(), x, dx, F, BLOCK=BLOCK)
        return dx


def swiglu(x):
    """As `chains.swiglu`: x (…, 2F), gate beside up -> (…, F)."""
    return SwiGLU.apply(x)
