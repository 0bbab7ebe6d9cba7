"""NF4: four bits for a weight, at the places where weights are, and eight bits for the scale of a block.

Before: LoRA's frozen matrices need no gradient and no optimiser, so they are what is left to shrink. New
here: a weight becomes one of 16 levels, the nearest. They are quantiles of the normal distribution, because
trained weights look like one. Every 64 weights share a scale, their largest magnitude (absmax). The scales
themselves, 32 bits for 64 weights, are quantised again, to 8 bits in blocks of 256 (double quantisation):

    4 bits + 8 / 64 + 32 / (64 · 256) = 4.127 bits a weight

The weights are made whole again for each product, in forward and once more in backward, and are kept
nowhere. A QLoRA layer is a LoRALinear whose base is an NF4Linear. Seam: `swap`.

Dettmers et al. 2023, 2305.14314 (QLoRA); Dettmers et al. 2021, 2110.02861 (the 8-bit levels). Codes and
scales are those of bitsandbytes 0.50 on the CPU, bit for bit.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from common.model import swap

BLOCK = 64  # weights that share a scale
SCALES = 256  # scales that share a scale
OFFSET = 0.9677083  # the outermost probability: the quantile of 1 lies at infinity
GRID = 32767.5  # bitsandbytes rounds to 65,536 places between -1 and 1 before it looks for a level
MATRICES = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")


@exercise
def normal_levels() -> Tensor:
    """The 16 levels of NF4 from -1 to 1, in float32, in order: (16,).

    8 quantiles of the normal distribution above zero, from OFFSET down to 0.5 in equal steps of probability
    (0.5 itself left out), 7 below it in the same way, and zero; all divided by the largest.
    """
    above = torch.special.ndtri(torch.linspace(OFFSET, 0.5, 9)[:-1].double())  # (8,)
    below = -torch.special.ndtri(torch.linspace(OFFSET, 0.5, 8)[:-1].double())  # (7,)
    levels = torch.cat((above, below, torch.zeros(1))).float().sort().values
    return levels / levels.max()


def dynamic_levels() -> Tensor:
    """256 levels from -0.993 to 1 for numbers of very different size, in float32, in order: (256,).

    A decade each from 1e-7 to 1, with 1, 2, 4 … 64 levels of either sign: the larger, the finer. Zero and
    one complete them.
    """
    levels = [torch.tensor([0.0, 1.0])]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = 10 ** (i - 6) * ((edges[:-1] + edges[1:]) / 2)  # (2^i,)
        levels += [middles, -middles]
    return torch.cat(levels).sort().values


def nearest(x: Tensor, levels: Tensor) -> Tensor:
    """The number of the level that is nearest to each x, int64; halfway, the lower one."""
    return torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)


def in_blocks(x: Tensor, size: int) -> Tensor:
    """All numbers of x in rows of `size`, the last one filled up with zeros: (n, size)."""
    flat = x.reshape(-1).float()
    return F.pad(flat, (0, -flat.numel() % size)).view(-1, size)


class Packed(NamedTuple):
    """n weights as codes, and what makes them whole."""

    codes: Tensor  # (n / 2,) uint8: two 4-bit codes each, the first in the upper half
    scales: Tensor  # (n / 64,) uint8: numbers of dynamic_levels
    steps: Tensor  # (n / 64 / 256,) float32: the scale of the scales
    mean: Tensor  # () float32: what was taken from the scales before they were quantised


@exercise
def quantize_scales(absmax: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales (m,) -> (their codes (m,) uint8, steps (m / 256,), mean ()): dynamic_levels, in blocks of 256.

    The mean is taken away first: scales are positive and lie close together. steps is the largest magnitude
    that is left in each block. Before the nearest level is looked for, a number in [-1, 1] is rounded to the
    grid ⌊(x + 1) · GRID + ½⌋ / GRID - 1. A block of equal scales has a step of 0, and its codes are 0.
    """
    mean = absmax.mean()
    blocks = in_blocks(absmax - mean, SCALES)  # (m / 256, 256)
    steps = blocks.abs().amax(1)  # (m / 256,)
    part = blocks * (1 / steps.clamp(min=1e-38))[:, None]
    place = ((part + 1) * GRID + 0.5).floor() / GRID - 1
    codes = nearest(place, dynamic_levels().to(place.device)) * (steps > 0)[:, None]
    return codes.flatten()[: len(absmax)].to(torch.uint8), steps, mean


@exercise
def dequantize_scales(packed: Packed) -> Tensor:
    """The inverse: scales (n / 64,) float32, each its level times the step of its block, plus the mean."""
    levels = dynamic_levels().to(packed.scales.device)[packed.scales.int()]
    return (in_blocks(levels, SCALES) * packed.steps[:, None]).flatten()[: len(levels)] + packed.mean


@exercise
def quantize(weight: Tensor) -> Packed:
    """Weights of any shape, in blocks of 64 along the last axis, -> codes and scales.

    absmax is the largest magnitude of a block; a code is the number of the level nearest to weight times
    1 / absmax. Two codes share a byte, the first in the upper four bits. A block of zeros has absmax 0.
    """
    blocks = in_blocks(weight, BLOCK)  # (n / 64, 64)
    absmax = blocks.abs().amax(1)  # (n / 64,)
    part = blocks * (1 / absmax.clamp(min=1e-38))[:, None]
    codes = nearest(part, normal_levels().to(part.device)).to(torch.uint8).flatten()
    codes = codes[: weight.numel() + weight.numel() % 2]
    return Packed(codes[0::2] << 4 | codes[1::2], *quantize_scales(absmax))


@cache
def byte_pairs(device: torch.device) -> Tensor:
    """What each byte of codes stands for: (256, 2), the level of its upper half, then of its lower."""
    levels = normal_levels()
    return torch.cartesian_prod(levels, levels).to(device)


@exercise
def dequantize(packed: Packed, shape: tuple[int, ...], dtype=torch.float32) -> Tensor:
    """Codes and scales -> weights of that shape: level times scale, computed in float32.

    `byte_pairs` turns each byte into two levels at once.
    """
    pairs = F.embedding(packed.codes.int(), byte_pairs(packed.codes.device))  # (n / 2, 2)
    values = in_blocks(pairs, BLOCK)  # (n / 64, 64)
    return values.mul_(dequantize_scales(packed)[:, None]).flatten()[: math.prod(shape)].view(shape).to(dtype)


class Product(torch.autograd.Function):
    """x (..., in) -> (..., out). Backward makes the weights whole again instead of keeping them."""

    @staticmethod
    def forward(ctx, x, linear):
        ctx.linear = linear
        return F.linear(x, linear.whole(x.dtype))

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.linear.whole(grad.dtype), None


class NF4Linear(nn.Module):
    """A frozen linear layer, (..., in) -> (..., out), that keeps its weights in 4 bits.

    Steps and mean are kept as the bits of their float32, so that a cast of the model leaves them whole.
    """

    def __init__(self, old: nn.Linear):
        super().__init__()
        self.out_features, self.in_features = old.weight.shape
        self.bias = old.bias
        for name, tensor in quantize(old.weight.detach())._asdict().items():
            self.register_buffer(name, tensor.view(torch.int32) if tensor.is_floating_point() else tensor)

    def whole(self, dtype=torch.float32) -> Tensor:
        """The weights that the codes stand for, (out, in)."""
        steps, mean = self.steps.view(torch.float32), self.mean.view(torch.float32)
        packed = Packed(self.codes, self.scales, steps, mean)
        return dequantize(packed, (self.out_features, self.in_features), dtype)

    @property
    def weight(self) -> Tensor:
        return self.whole()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y = Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def apply(model: nn.Module, targets=MATRICES) -> nn.Module:
    """Put the matrices named (by the last part of their name) into 4 bits; returns the model.

    UserError for the head where it is tied: the embedding reads the same table. To save such a model, note
    it first: hub.mark(model, "project05_lora", targets=[…]).
    """
    tied = "head" in targets and model.config.tie_embeddings
    demand(not tied, "the head is tied to the embedding, which is no product: untie(model) first")
    return swap(model, nn.Linear, NF4Linear, lambda name: name.rpartition(".")[2] in targets)


def restore(model: nn.Module, targets=MATRICES) -> nn.Module:
    """The shapes of a folder so marked: hub.load(folder, restore={"project05_lora": restore})."""
    return apply(model, targets)
