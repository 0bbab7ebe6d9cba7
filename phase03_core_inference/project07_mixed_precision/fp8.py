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

from collections import deque

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


class AmaxHistory:
    """The largest magnitudes of one tensor over the last `length` steps, and the scale that they give."""

    def __init__(self, dtype, length=16):
        demand(length >= 1, f"length is {length}: a history holds at least 1 step")
        self.dtype, self.values = dtype, deque(maxlen=length)

    @exercise
    def scale(self, x):
        """The scale for x, a float, from the steps *before*; then x's own amax goes into the history.

        At first, with no history, x's own amax is taken. Nothing but zeros so far: 1. An amax that is not
        finite is not kept: the scale would be 0, or NaN, for `length` steps.
        """
        amax = x.detach().abs().max().item()
        largest = max(self.values, default=amax)
        if amax < float("inf"):  # NaN is not, either
            self.values.append(amax)
        return torch.finfo(self.dtype).max / largest if 0 < largest < float("inf") else 1.0


# ---- a product ---------------------------------------------------------------------------------------------


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
    inverse = [torch.tensor(1 / scale, device=a.device) for scale in (scale_a, scale_b)]
    return torch._scaled_mm(a, b.T, scale_a=inverse[0], scale_b=inverse[1], out_dtype=out)


def multiply(a, b, scale_a, scale_b, out):
    """a (M, K), b (N, K) -> (M, N): in hardware where there is some."""
    fits = native(a.device) and all(size % 16 == 0 for size in (*a.shape, *b.shape))
    return (fast_product if fits else product)(a.contiguous(), b.contiguous(), scale_a, scale_b, out)


class Fp8Product(torch.autograd.Function):
    """x (M, in) @ weight (out, in)ᵀ -> (M, out), of the type of x: three products, one forward, two back."""

    @staticmethod
    def forward(ctx, x, weight, histories):
        scales = [histories[name].scale(tensor) for name, tensor in (("x", x), ("weight", weight))]
        x8, weight8 = to_fp8(x, scales[0], E4M3), to_fp8(weight, scales[1], E4M3)
        ctx.save_for_backward(x8, weight8)  # kept in 8 bits too
        ctx.scales, ctx.histories, ctx.types = scales, histories, (x.dtype, weight.dtype)
        return multiply(x8, weight8, *scales, x.dtype)

    @staticmethod
    def backward(ctx, dy):
        return (*gradients(dy, *ctx.saved_tensors, *ctx.scales, ctx.histories["dy"], ctx.types), None)


@exercise
def gradients(dy, x8, weight8, scale_x, scale_weight, history, types):
    """dy (M, out) -> (dx (M, in), dweight (out, in)), of the two `types`. dy goes to e5m2, by its history.

    dx = dy weight, dweight = dyᵀ x. `multiply` takes its second matrix transposed, and both scales.
    """
    scale = history.scale(dy)
    dy8 = to_fp8(dy, scale, E5M2)
    dx = multiply(dy8, weight8.T, scale, scale_weight, types[0])  # (M, out) (out, in)
    dweight = multiply(dy8.T, x8.T, scale, scale_x, types[1])  # (out, M) (M, in)
    return dx, dweight


# ---- in the model ------------------------------------------------------------------------------------------


class Fp8Linear(nn.Module):
    """nn.Linear whose three products are in float8. The weight stays what it is: the master.

    `work` is the type of what goes in and out. `histories`: x, weight and dy.
    """

    def __init__(self, old, work=torch.bfloat16, length=16):
        super().__init__()
        self.weight, self.bias, self.work = old.weight, old.bias, work
        types = {"x": E4M3, "weight": E4M3, "dy": E5M2}
        self.histories = {name: AmaxHistory(dtype, length) for name, dtype in types.items()}

    def forward(self, x):
        """x (..., in) -> (..., out), of the type `work`."""
        flat = x.to(self.work).flatten(0, -2)  # (M, in)
        y = Fp8Product.apply(flat, self.weight, self.histories).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias.to(y)


def in_blocks(name):
    """Not the head: its gradients are the smallest and its errors go straight into the loss."""
    return name.startswith("blocks.")


def with_fp8(model, work=torch.bfloat16, length=16, where=in_blocks):
    """Replace the linear layers whose dotted name passes `where`, in place; return the model.

    Then `mixed_precision.mixed` may see to the rest: it leaves these alone.
    """
    return swap(model, nn.Linear, lambda old: Fp8Linear(old, work, length), where)
