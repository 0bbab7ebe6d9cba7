"""RMSNorm in Triton, with the residual sum before it: forward and backward, a row at a time.

Before: `chains.add_rms_norm`, six kernels that move a row eleven times. New here: two loads and two stores.
Going back, every row adds to the gradient of the gain. So that no two programs ever add to one number, each
walks over its share of the rows with a sum of its own, and the sums are added at the end, in order."""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from triton.language import constexpr

from common.exercise import exercise

from .triton_rows import ready, shares, tl_sum, whole_row


@triton.jit
@exercise
def norm_row(x, weight, eps, C):
    """x and weight (BLOCK,), float32, 0 from C on -> (y (BLOCK,), rstd): x times rstd times weight.

    rstd is one over the root of the mean square of the row's C numbers, plus eps under the root.
    """
    rstd = 1.0 / tl.sqrt(tl_sum(x * x, 0) / C + eps)
    return x * rstd * weight, rstd


@triton.jit
def forward_kernel(x, residual, weight, total, y, rstd, eps, C, ADD: constexpr, BLOCK: constexpr):
    """Row program_id(0): total = x + residual where ADD, y its norm, rstd for the way back."""
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, inside = row * C + c, c < C
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        values += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        values = values.to(total.dtype.element_ty).to(tl.float32)  # what is stored, and what eager would read
        tl.store(total + at, values.to(total.dtype.element_ty), mask=inside)
    gain = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    normed, factor = norm_row(values, gain, eps, C)
    tl.store(y + at, normed.to(y.dtype.element_ty), mask=inside)
    tl.store(rstd + row, factor)


@triton.jit
@exercise
def norm_row_back(dy, x, weight, rstd, C):
    """What flows back through a row, all (BLOCK,), float32, 0 from C on; rstd a number -> (dx, dweight).

    With n = x rstd: dx is rstd times (dy weight less n times the mean of dy weight n), because the row's
    length cannot grow; dweight, of this row alone, is dy n.
    """
    n = x * rstd
    g = dy * weight
    return rstd * (g - n * (tl_sum(g * n, 0) / C)), dy * n


@triton.jit
def backward_kernel(dy, dtotal, total, weight, rstd, dx, dweight, rows, C, ADD: constexpr, BLOCK: constexpr):
    """Rows program_id(0), program_id(0) + programs, …; dweight (programs, C), a sum for each program."""
    first, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = c < C
    gain = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    sums = tl.full([BLOCK], 0.0, tl.float32)
    for row in range(first, rows, tl.num_programs(0)):
        at = row * C + c
        back = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        values = tl.load(total + at, mask=inside, other=0.0).to(tl.float32)
        grad, own = norm_row_back(back, values, gain, tl.load(rstd + row), C)
        if ADD:
            grad += tl.load(dtotal + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + at, grad.to(dx.dtype.element_ty), mask=inside)
        sums += own
    tl.store(dweight + first * C + c, sums, mask=inside)


class Norm(torch.autograd.Function):
    """(x, residual or None, weight, eps) -> (normed, total or None)"""

    @staticmethod
    def forward(ctx, x, residual, weight, eps):
        x, weight, *other = ready(x, weight, *(() if residual is None else (residual,)))
        C, add = x.size(-1), residual is not None
        y, rows, total = torch.empty_like(x), x.numel() // C, torch.empty_like(x) if add else x
        rstd = x.new_empty(rows, dtype=torch.float32)
        residual = other[0] if add else x
        forward_kernel[(rows,)](x, residual, weight, total, y, rstd, eps, C, ADD=add, **whole_row(C))
        ctx.save_for_backward(total, weight, rstd)
        ctx.add = add
        return y, total if add else None

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dtotal):
        total, weight, rstd = ctx.saved_tensors
        C, dy, add = weight.numel(), dy.contiguous(), ctx.add and dtotal is not None
        dx, n = torch.empty_like(total), shares(len(rstd))
        sums = torch.empty(n, C, dtype=torch.float32, device=dy.device)
        also, size = (
            dtotal.contiguous() if add else dy,
            {"rows": len(rstd), "C": C, "ADD": add, **whole_row(C)},
        )
        backward_kernel[(n,)](dy, also, total, weight, rstd, dx, sums, **size)
        return dx, dx if ctx.add else None, sums.sum(0).to(weight.dtype), None


def rms_norm(x, weight, eps):
    """As `chains.rms_norm`, x (…, C)."""
    return Norm.apply(x, None, weight, eps)[0]


def add_rms_norm(x, residual, weight, eps):
    """As `chains.add_rms_norm`, x and residual (…, C) -> (normed, total)."""
    return Norm.apply(x, residual, weight, eps)
