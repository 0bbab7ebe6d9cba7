"""Eight bits: a product of two matrices of 256 values each, and a scale for each matrix that makes them fit.

Before: 16 bits, and one scale for the whole loss (mixed_precision.py). New here: with 8 bits the range is so
short that every tensor needs a scale of its own, of which there are three to a layer:

    e4m3    4 bits of exponent, 3 of fraction    0.002 .. 448        weights and what goes forward
    e5m2    5                   2                1.5e-5 .. 57344     gradients: less exact, more range

The scale brings a tensor's largest magnitude, its *amax*, to the largest number of the type. To look for it
first would be a pass over memory of its own; so it is taken from the last steps: *delayed scaling*. What is
larger than everything lately is cut off, never inf. One number for a tensor: *tensorwise*.

Put on through `swap`. Micikevicius et al. 2022, 2209.05433.
"""

import torch
from torch import nn

from common.errors import demand
from common.exercise import exercise
from common.model import swap

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


# ---- one tensor --------------------------------------------------------------------------------------------


@exercise
def to_fp8(x, scale, dtype):
    """x, of any shape, times scale (a float), as float8. What is beyond the type's range becomes its end.

    Without the cut 500 becomes NaN in e4m3, which has no infinity, and infinity in e5m2.
    """
    end = torch.finfo(dtype).max
    return (x.float() * scale).clamp(-end, end).to(dtype)


@exercise
def delayed_scale(x, history, dtype):
    """The scale for x, a tensor of one float, from the steps *before*; x's own amax goes into the history.

    history (length,), float32: the amax of the last steps, the newest first, 0 where there was none; changed
    in place. While it holds nothing but zeros, x's own amax is taken. An amax of inf or NaN goes in as 0.
    Where the scale would not be a finite number over 0, it is 1. No .item(): a GPU would have to wait.
    """
    amax = x.detach().abs().amax().float()
    largest = history.max()
    scale = torch.finfo(dtype).max / torch.where(largest > 0, largest, amax)
    kept = torch.where(amax.isfinite(), amax, 0.0)
    history.copy_(torch.cat((kept[None], history[:-1])))
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0)


# ---- a product ---------------------------------------------------------------------------------------------


@torch.compiler.assume_constant_result
def native(device):
    """Does this device multiply float8? (H100 and later.) Elsewhere the product is emulated."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


@exercise
def product(a, b, scale_a, scale_b, out):
    """a (M, K) float8, was multiplied by scale_a; b (N, K) float8, by scale_b -> a bᵀ (M, N), of type `out`.

    Summed in float32; both scales are taken off the sum. Emulated: what the hardware computes, slowly.
    """
    return (a.float() @ b.float().T / (scale_a * scale_b)).to(out)


def fast_product(a, b, scale_a, scale_b, out):  # pragma: no cover - gpu
    """`product` in the GPU's float8 units, which want b column by column, and every size a multiple of 16."""
    return torch._scaled_mm(a, b.T, scale_a=1 / scale_a, scale_b=1 / scale_b, out_dtype=out)


def multiply(a, b, scale_a, scale_b, out):
    """a (M, K), b (N, K) -> (M, N): in hardware where there is some."""
    fits = native(a.device) and all(size % 16 == 0 for size in (*a.shape, *b.shape))
    return (fast_product if fits else product)(a.contiguous(), b.contiguous(), scale_a, scale_b, out)


class Fp8Product(torch.autograd.Function):
    """x (M, in) @ weight (out, in)ᵀ -> (M, out), of the type of x: three products, one forward, two back.

    The three histories are those of x, weight and dy; each is changed in place.
    """

    @staticmethod
    def forward(ctx, x, weight, of_x, of_weight, of_dy):
        scale_x, scale_weight = delayed_scale(x, of_x, E4M3), delayed_scale(weight, of_weight, E4M3)
        x8, weight8 = to_fp8(x, scale_x, E4M3), to_fp8(weight, scale_weight, E4M3)
        ctx.save_for_backward(x8, weight8, scale_x, scale_weight)  # kept in 8 bits too
        ctx.history, ctx.types = of_dy, (x.dtype, weight.dtype)
        return multiply(x8, weight8, scale_x, scale_weight, x.dtype)

    @staticmethod
    def backward(ctx, dy):
        return (*gradients(dy, *ctx.saved_tensors, ctx.history, ctx.types), None, None, None)


@exercise
def gradients(dy, x8, weight8, scale_x, scale_weight, history, types):
    """dy (M, out) -> (dx (M, in), dweight (out, in)), of the two `types`. dy goes to e5m2, by its history.

    dx = dy weight, dweight = dyᵀ x. `multiply` takes its second matrix transposed, and both scales.
    """
    scale = delayed_scale(dy, history, E5M2)
    dy8 = to_fp8(dy, scale, E5M2)
    dx = multiply(dy8, weight8.T, scale, scale_weight, types[0])  # (M, out) (out, in)
    dweight = multiply(dy8.T, x8.T, scale, scale_x, types[1])  # (out, M) (M, in)
    return dx, dweight


# ---- in the model ------------------------------------------------------------------------------------------


class Fp8Linear(nn.Module):
    """nn.Linear whose three products are in float8. The weight stays what it is: the master.

    `work` is the type of what goes in and out; `length`: steps that the three histories look back.
    """

    def __init__(self, old, work=torch.bfloat16, length=16):
        super().__init__()
        demand(length >= 1, f"length is {length}: a history holds at least 1 step")
        self.weight, self.bias, self.work = old.weight, old.bias, work
        for name in ("x", "weight", "dy"):
            history = torch.zeros(length, device=old.weight.device)
            self.register_buffer(f"amax_{name}", history, persistent=False)  # not in checkpoints

    def forward(self, x):
        """x (..., in) -> (..., out), of the type `work`."""
        flat = x.to(self.work).flatten(0, -2)  # (M, in)
        y = Fp8Product.apply(flat, self.weight, self.amax_x, self.amax_weight, self.amax_dy)
        y = y.unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias.to(y)


def in_blocks(name):
    """Not the head: its gradients are the smallest and its errors go straight into the loss."""
    return name.startswith("blocks.")


def with_fp8(model, work=torch.bfloat16, length=16, where=in_blocks):
    """Replace the linear layers whose dotted name passes `where`, in place; return the model.

    Then `mixed_precision.mixed` may see to the rest: it leaves these alone.
    """
    return swap(model, nn.Linear, lambda old: Fp8Linear(old, work, length), where)
