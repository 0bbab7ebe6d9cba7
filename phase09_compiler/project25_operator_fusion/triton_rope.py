"""RoPE in Triton: q and k of one token turned by one program, and turned back by the same kernel.

Before: `chains.rotate`, ten kernels and two concatenations. New here: each pair is loaded, turned, stored. A
turn is a matrix whose transpose turns the other way: so the backward is the forward, with the sign of the
sine changed, and nothing of the input has to be kept."""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from triton.language import constexpr

from .triton_rows import ready, whole_row


@triton.jit
def rotate_kernel(x, cos, sin, y, sign, T, PER_ROW: constexpr, N: constexpr, TURNED: constexpr,
                  HALF: constexpr, BLOCK: constexpr):  # fmt: skip
    """Token program_id(0) of x (B T, N heads, 2 HALF): pair j is number d of head h, with d + HALF."""
    token, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    h, d, inside = j // HALF, j % HALF, j < N * HALF
    at = token * N * 2 * HALF + h * 2 * HALF + d
    place = (token if PER_ROW else token % T) * HALF + d  # of the angle: each row has its own, or all share
    a = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + at + HALF, mask=inside, other=0.0).to(tl.float32)
    c = tl.where(h < TURNED, tl.load(cos + place, mask=inside, other=1.0), 1.0)  # v is not turned
    s = tl.where(h < TURNED, tl.load(sin + place, mask=inside, other=0.0), 0.0) * sign
    tl.store(y + at, (a * c - b * s).to(y.dtype.element_ty), mask=inside)
    tl.store(y + at + HALF, (b * c + a * s).to(y.dtype.element_ty), mask=inside)


def turn(qkv, cos, sin, turned, sign):
    """qkv (B, T, N D) by its angles, or back with sign -1."""
    (qkv,), half = ready(qkv), cos.size(-1)
    (T, width), y = qkv.shape[-2:], torch.empty_like(qkv)
    cos, sin = (angle.float().contiguous() for angle in (cos, sin))
    sizes = {"N": width // (2 * half), "TURNED": turned, "HALF": half, **whole_row(width // 2)}
    own = cos.numel() != T * half  # angles for each row of the batch
    rotate_kernel[(qkv.numel() // width,)](qkv, cos, sin, y, float(sign), T, PER_ROW=own, **sizes)
    return y


class Rotate(torch.autograd.Function):
    """(qkv, cos, sin, how many heads are turned) -> (B, T, N D)"""

    @staticmethod
    def forward(ctx, qkv, cos, sin, turned):
        ctx.save_for_backward(cos, sin)
        ctx.turned = turned
        return turn(qkv, cos, sin, turned, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        return turn(dy, *ctx.saved_tensors, ctx.turned, -1), None, None, None


def rotate(qkv, rope, turned):
    """As `chains.rotate`: qkv (B, T, N D), rope (cos, sin)."""
    return Rotate.apply(qkv, *rope, turned)
