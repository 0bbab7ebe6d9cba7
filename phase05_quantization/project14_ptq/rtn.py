"""Round to nearest: a weight becomes a small whole number, and a group of weights shares the step of a grid.

Before: a weight is a float of 32 or 16 bits. New here: w ≈ scale · (code - zero). The code has 8, 4, 3 or 2
bits; scale, and where the grid is not symmetric zero, belong to a group of weights: all of a matrix, a row
(the weights of one output), or `group` neighbours of a row. What a weight costs, with float16 scales:

    bits + 16 / group        4 bits, groups of 128: 4.125, which is 3.88 times less than 16

Nothing is looked at but the weight itself: no data, and a rounding error is nobody's business. `gptq.py` and
`awq.py` choose other codes for the same grids; all end in a QuantLinear. Rounding is torch.round's: half to
even. Seam: `swap`.

Jacob et al. 2018, 1712.05877 (scale and zero point); Dettmers et al. 2022, 2208.07339 (absmax, vector-wise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from common.model import Embedding, swap

BITS = (2, 3, 4, 8)
MATRICES = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")  # of the blocks; embedding and head apart
Group = int | Literal["tensor"] | None  # neighbours of a row; one group for all; None: a row is a group


def qmax(bits: int) -> int:
    """The largest code: 127 for 8 bits, 7 for 4, 3 for 3, 1 for 2. The smallest is -qmax - 1."""
    demand(bits in BITS, f"codes have {', '.join(map(str, BITS))} bits, not {bits}")
    return 2 ** (bits - 1) - 1


# ---- the grid ----


@dataclass
class Grid:
    """Steps and zeros of a matrix (out, in) with G groups to a row: (out, G), or (1, 1) for all of it."""

    scale: Tensor  # float16 as grid_of makes it, and never 0: what w is divided by
    zero: Tensor | None  # int8, the code that stands for 0; None: symmetric, code 0 does

    def __iter__(self):
        return iter((self.scale, self.zero))


def groups_of(w: Tensor, group: Group = None) -> Tensor:
    """w (out, in) as its groups: (out, G, in / G), or (1, 1, all). UserError where group does not divide."""
    if group == "tensor":
        return w.reshape(1, 1, -1)
    size = w.size(-1) if group is None else group
    whole = isinstance(size, int) and size >= 1 and w.size(-1) % size == 0
    demand(whole, f"groups of {size} do not divide rows of {w.size(-1)}: take a divisor of it, or None")
    return w.unflatten(-1, (-1, size))


def demand_finite(w: Tensor) -> None:
    """UserError for NaN and infinity: they would spoil the step of a whole group, and nobody would see."""
    bad = int((~w.isfinite()).sum())
    demand(not bad, f"{bad} of {w.numel()} weights are NaN or infinite: quantise a model whose run was sound")


@exercise
def grid_of(w: Tensor, bits: int, group: Group = None, symmetric: bool = True, dtype=torch.float16) -> Grid:
    """The grid that just reaches the largest weights of each group of w (out, in).

    symmetric (absmax): scale = largest magnitude / qmax, and no zero. Else (zero point): the 2^bits codes
    reach from the smallest weight to the largest, 0 always among them so that it stays exact: scale = (high -
    low) / (2 qmax + 1), and zero, a whole number, is the code for 0: low falls onto code -qmax - 1. The scale
    is rounded up to `dtype`, as which it is kept, before anything is computed with it: so no weight moves
    further than half a step. It is 1 where it would be 0.
    UserError: other bits, groups that do not divide, weights that are not finite or too large for dtype.
    """
    demand_finite(w)
    most, parts = qmax(bits), groups_of(w, group).to(torch.promote_types(w.dtype, torch.float32))
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)  # (out, G)
    reach = torch.maximum(-low, high) / most if symmetric else (high - low) / (2 * most + 1)
    scale = reach.to(dtype)
    scale = torch.where(scale < reach, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale)
    demand(scale.isfinite().all(), f"weights as large as {reach.max() * most:.3g} have no scale in {dtype}")
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    if symmetric:
        return Grid(scale, None)
    return Grid(scale, (-most - 1 - (low / scale).round()).clamp(-most - 1, most).to(torch.int8))


def spread(grid: Grid) -> tuple[Tensor, Tensor | int]:
    """(scale, zero) as they meet the groups of a matrix: (out, G, 1)."""
    return grid.scale.unsqueeze(-1), 0 if grid.zero is None else grid.zero.unsqueeze(-1)


@exercise
def quantize(w: Tensor, grid: Grid, bits: int) -> Tensor:
    """w (out, in) -> codes (out, in), int8: w / scale, rounded half to even, plus zero; then kept within
    -qmax - 1 … qmax. The quotient is float32 or better."""
    scale, zero = spread(grid)
    parts = w.to(torch.promote_types(w.dtype, torch.float32)).unflatten(-1, (grid.scale.size(-1), -1))
    codes = ((parts / scale).round() + zero).clamp(-qmax(bits) - 1, qmax(bits))  # (out, G, in / G)
    return codes.to(torch.int8).flatten(-2)


@exercise
def dequantize(codes: Tensor, grid: Grid, dtype=torch.float32) -> Tensor:
    """codes (out, in) -> weights (out, in) of dtype: scale · (code - zero), computed in float32."""
    scale, zero = spread(grid)
    parts = codes.unflatten(-1, (grid.scale.size(-1), -1)).float() - zero  # (out, G, in / G)
    return (parts * scale.float()).flatten(-2).to(dtype)


# ---- packing ----


def cycle(bits: int) -> tuple[int, int]:
    """(codes, bytes) after which both come out even: 2 in 1 for 4 bits, 4 in 1 for 2, 8 in 3 for 3."""
    qmax(bits)
    return math.lcm(bits, 8) // bits, math.lcm(bits, 8) // 8


@exercise
def pack(codes: Tensor, bits: int) -> Tensor:
    """codes (..., n) int8 -> bytes (..., m) uint8, m = ceil(n / codes per cycle) · bytes per cycle.

    Each row by itself, filled up with zeros. code + qmax + 1 is not negative and has `bits` bits. They follow
    one another from the lowest bit of the first byte on: for 3 bits, code 2 has bits 6 and 7 of byte 0 and
    bit 0 of byte 1.
    """
    n, m = cycle(bits)
    numbers = F.pad(codes.int() + qmax(bits) + 1, (0, -codes.size(-1) % n)).unflatten(-1, (-1, n))
    words = (numbers << bits * torch.arange(n, device=codes.device)).sum(-1, keepdim=True)  # (..., words, 1)
    return (words >> 8 * torch.arange(m, device=codes.device) & 255).to(torch.uint8).flatten(-2)


@exercise
def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """The inverse of pack: bytes (..., m) uint8 -> the first n codes of each row, (..., n) int8."""
    each, m = cycle(bits)
    words = packed.unflatten(-1, (-1, m))  # (..., words, m)
    if m > 1:
        words = (words.int() << 8 * torch.arange(m, device=packed.device)).sum(-1, keepdim=True)
    shifts = (bits * torch.arange(each, device=packed.device)).to(words.dtype)
    numbers = (words >> shifts & (1 << bits) - 1).flatten(-2)[..., :n]
    return (numbers.to(torch.int16) - qmax(bits) - 1).to(torch.int8)


# ---- in a model ----


class QuantLinear(nn.Module):
    """A linear layer, (..., in) -> (..., out), whose weights are packed codes; each product makes them whole.

    Buffers: packed (out, bytes) uint8, steps (out, G), the bits of the scales as whole numbers so that a cast
    of the model leaves them alone, and zero (out, G) int8 where the grid is not symmetric.
    """

    def __init__(self, out: int, into: int, bits: int, groups: tuple[int, int], *, symmetric=True, bias=None,
                 dtype=torch.float16):  # fmt: skip
        super().__init__()
        n, m = cycle(bits)
        self.out_features, self.in_features, self.bits, self.bias = out, into, bits, bias
        steps = torch.int16 if dtype.itemsize == 2 else torch.int32
        self.dtype = dtype  # of the scales
        self.register_buffer("packed", torch.zeros(out, -(-into // n) * m, dtype=torch.uint8))
        self.register_buffer("steps", torch.zeros(groups, dtype=steps))
        self.register_buffer("zero", None if symmetric else torch.zeros(groups, dtype=torch.int8))

    @classmethod
    def shaped(cls, linear, bits, group=None, symmetric=True, dtype=torch.float16) -> QuantLinear:
        """As from_linear, but without codes: what a folder's are loaded into."""
        out, into = linear.weight.shape
        groups = groups_of(linear.weight, group).shape[:2]
        bias = getattr(linear, "bias", None)
        return cls(out, into, bits, groups, symmetric=symmetric, bias=bias, dtype=dtype)

    @classmethod
    def from_codes(cls, codes, grid, bits, bias=None) -> QuantLinear:
        """codes (out, in) int8 with their grid, however they were found."""
        made = cls(*codes.shape, bits, grid.scale.shape, symmetric=grid.zero is None, bias=bias,
                   dtype=grid.scale.dtype)  # fmt: skip
        made.packed, made.steps = pack(codes, bits), grid.scale.view(made.steps.dtype)
        made.zero = grid.zero
        return made

    @classmethod
    def from_linear(cls, linear, bits, group=None, symmetric=True) -> QuantLinear:
        """Round the weights of a linear layer to nearest."""
        w = linear.weight.detach()
        grid = grid_of(w, bits, group, symmetric)
        return cls.from_codes(quantize(w, grid, bits), grid, bits, getattr(linear, "bias", None))

    @property
    def grid(self) -> Grid:
        return Grid(self.steps.view(self.dtype), self.zero)

    @property
    def codes(self) -> Tensor:
        """(out, in) int8"""
        return unpack(self.packed, self.bits, self.in_features)

    def whole(self, dtype=torch.float32) -> Tensor:
        """The weights that the codes stand for, (out, in)."""
        return dequantize(self.codes, self.grid, dtype)

    @property
    def weight(self) -> Tensor:
        return self.whole()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.whole(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, groups={tuple(self.steps.shape)}"


class QuantEmbedding(nn.Module):
    """tokens (B, T) -> (B, T, C) from a table of packed codes, of which only the rows asked for are made
    whole. `weight` is empty: it tells where the model computes, and in which type."""

    def __init__(self, old: Embedding, table: QuantLinear):
        super().__init__()
        self.table, self.dropout = table, old.dropout
        self.register_buffer("weight", old.weight.detach().new_empty(0, table.in_features), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        codes = unpack(self.table.packed[tokens], self.table.bits, self.table.in_features)  # (B, T, C)
        scale, zero = (x if x is None or len(x) == 1 else x[tokens] for x in self.table.grid)  # (B, T, G)
        return self.dropout(dequantize(codes, Grid(scale, zero), self.weight.dtype))


def in_blocks(name: str) -> bool:
    """Whether a dotted name is one of the matrices of the blocks."""
    return name.rpartition(".")[2] in MATRICES


def apply(model, bits=4, group=None, symmetric=True, make=QuantLinear.from_linear):
    """Round the matrices of the blocks to nearest; the model is changed and returned."""
    return swap(model, nn.Linear, lambda old: make(old, bits, group, symmetric), in_blocks)


def apply_to_tables(model, bits=8, group=None, symmetric=True, make=QuantLinear.from_linear):
    """Round embedding and head too: one table of codes where they are tied. Returns the model."""
    tied, old = model.config.tie_embeddings, model.embed
    head = make(model.head, bits, group, symmetric)
    swap(model, nn.Linear, lambda _: head, lambda name: name == "head")
    table = head if tied else make(old, bits, group, symmetric)
    return swap(model, Embedding, lambda old: QuantEmbedding(old, table))


def restore(model, bits, group=None, symmetric=True, tables=None, dtype="float32"):
    """The shapes of a folder noted as hub.mark(model, "project14_ptq", bits=4, group=128, …): for
    hub.load(folder, restore={"project14_ptq": restore}). tables: bits of embedding and head, None: floats.
    dtype: what the rest of the model is in."""
    model = apply(model.to(getattr(torch, dtype)), bits, group, symmetric, QuantLinear.shaped)
    return apply_to_tables(model, tables, group, symmetric, QuantLinear.shaped) if tables else model
