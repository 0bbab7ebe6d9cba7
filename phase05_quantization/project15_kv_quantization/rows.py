"""Rows of numbers in 8, 4 or 2 bits: whole numbers (codes), and with each row its scale and its low.

Came before: two or four bytes for every number. New here: a row of numbers x shares a scale and a low,

    x ≈ low + scale * code        codes from 0 to 255, 15 or 3

The step from one code to the next is as wide as the loudest of the row makes it. So a row should hold
numbers of one kind. Keys have loud *channels*, the same few in all tokens; values rather loud *tokens*:

    keys    (S, D) -> (S / G, D, G)     a row is one channel of a group of G tokens
    values  (S, D) -> (S, D / g, g)     a row is g channels of one token

A row is a stretch of bytes, as in torch's quantised embedding tables, to the bit:

    | code code code code ... | scale low |     float32 each where codes have 8 bits, else float16

Liu et al. 2024, "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv 2402.02750.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from common.errors import demand
from common.exercise import exercise

TYPES = {8: torch.float32, 4: torch.float16, 2: torch.float16}  # of scale and low, by the bits of a code
SMALLEST = torch.finfo(torch.float16).tiny  # of a scale in float16: below it there are fewer digits


def per_tensor(x, bits):
    """The naive way, there and back: one scale for all of x. What is loud in x decides for all the rest."""
    top = 2 ** (bits - 1) - 1
    scale = (x.abs().amax() / top).clamp(min=SMALLEST)
    return (x / scale).round().clamp(-top, top) * scale


def tail(bits):
    """Bytes of a row's scale and low."""
    return 2 * TYPES[bits].itemsize


class Rows(NamedTuple):
    """Rows of W numbers: table (..., W * bits / 8 + tail(bits)), uint8."""

    table: torch.Tensor
    bits: int

    @property
    def codes(self):
        """(..., W * bits / 8), with 8 / bits codes in a byte: a view."""
        return self.table[..., : -tail(self.bits)]

    @property
    def scale(self):
        """(..., 1): a view."""
        return self.table[..., -tail(self.bits) :].view(TYPES[self.bits])[..., :1]

    @property
    def low(self):
        """(..., 1): a view."""
        return self.table[..., -tail(self.bits) :].view(TYPES[self.bits])[..., 1:]

    @property
    def bound(self):
        """How far a number of a row may be off, (..., 1): half a step, and what its type makes of `low`."""
        digits = torch.finfo(TYPES[self.bits]).eps / 2
        return self.scale.double() / 2 + self.low.double().abs() * digits


def room(shape, bits, like):
    """Rows of zeros: shape (..., W), on the device of `like`."""
    *rows, W = shape
    return Rows(like.new_zeros(*rows, W * bits // 8 + tail(bits), dtype=torch.uint8), bits)


# ---- numbers to codes, and back ----


@exercise
def quantize(x, bits):
    """x (..., W), float -> Rows. Each row by itself, every number to the nearest step.

    low is the row's lowest number, scale (highest - low) / (2**bits - 1). Below 8 bits low, and then scale
    (at least SMALLEST), become float16 first: codes are made for what is kept. No code is beyond its range. A
    row that is constant has codes 0. A NaN is not hidden: all of its row is NaN afterwards.
    """
    x, top = x.to(torch.promote_types(x.dtype, torch.float32)), 2**bits - 1
    low = x.amin(-1, keepdim=True).to(TYPES[bits])  # (..., 1)
    scale = (x.amax(-1, keepdim=True) - low) / top
    scale = (scale if bits == 8 else scale.clamp(min=SMALLEST)).to(TYPES[bits])
    codes = ((x - low) / scale.clamp(min=1e-30)).round().clamp(0, top).to(torch.uint8)
    return Rows(torch.cat((pack(codes, bits), torch.cat((scale, low), -1).view(torch.uint8)), -1), bits)


def shifts(bits, device):
    """Where in a byte each of its codes begins: (8 / bits,), in bits."""
    return torch.arange(0, 8, bits, device=device, dtype=torch.uint8)


def pack(codes, bits):
    """codes (..., W), uint8 below 2**bits -> (..., W * bits / 8). Neighbours share a byte; the first of them
    has its lowest bits."""
    return (codes.unflatten(-1, (-1, 8 // bits)) << shifts(bits, codes.device)).sum(-1, dtype=torch.uint8)


@exercise
def unpack(packed, bits):
    """The way back: bytes (..., N) -> codes (..., N * 8 / bits), uint8."""
    parts = packed.unsqueeze(-1) >> shifts(bits, packed.device)  # (..., N, 8 / bits)
    return (parts & (2**bits - 1)).flatten(-2)


def dequantize(rows, dtype=torch.float32):
    """Rows -> (..., W): low + scale * code. Worked out in float32 at least."""
    wide = torch.promote_types(dtype, torch.float32)
    return (unpack(rows.codes, rows.bits).to(wide) * rows.scale.to(wide) + rows.low.to(wide)).to(dtype)


# ---- which numbers form a row ----


def key_rows(k, group):
    """k (..., S, D) -> (..., S / group, D, group): a row is one channel of a group of tokens."""
    return k.unflatten(-2, (-1, group)).transpose(-2, -1)


def keys_of(rows):
    """The way back: (..., S / group, D, group) -> (..., S, D)."""
    return rows.transpose(-2, -1).flatten(-3, -2)


def value_rows(v, channels):
    """v (..., S, D) -> (..., S, D / channels, channels): a row is some channels of one token."""
    return v.unflatten(-1, (-1, channels))


@dataclass(frozen=True)
class Format:
    """bits: 8, 4 or 2. group: tokens in a row of keys, and channels in a row of values, or all that there are
    where a head has fewer. window: the last so many tokens, at least, are kept as they came."""

    bits: int = 8
    group: int = 64
    window: int = 64

    def __post_init__(self):
        demand(self.bits in TYPES, f"{self.bits} bits are not supported: 8, 4 or 2 are")
        self.fills(self.group)
        demand(self.window >= 1, f"a window of {self.window} tokens: the newest, at least, has no scale yet: "
               "1 or more")  # fmt: skip

    def fills(self, W):
        """UserError unless the codes of W numbers fill whole words of 4 bytes: scales lie behind them."""
        each = 32 // self.bits
        demand(W >= 1 and W % each == 0, f"rows of {W} numbers of {self.bits} bits do not fill words of 4 "
               f"bytes: a group is a multiple of {each}")  # fmt: skip

    def channels(self, D):
        """How many channels a row of values has in heads of D. UserError where they do not divide D."""
        g = min(self.group, D)
        demand(D % g == 0, f"a group of {g} does not divide the {D} channels of a head: choose one that does")
        self.fills(g)
        return g

    @exercise
    def bytes_per_token(self, K, D):
        """Bytes that one quantised token takes in one layer with K heads of D channels, scales included.

        A number costs bits / 8 bytes, a row `tail(bits)` more. A row of keys serves `group` tokens, and each
        of the D channels has one; a token has D / channels(D) rows of values for each head. A float.
        """
        keys = D * self.bits / 8 + D * tail(self.bits) / self.group
        values = D * self.bits / 8 + D * tail(self.bits) / self.channels(D)
        return K * (keys + values)

    def share(self, D, itemsize=2):
        """What it takes of a cache without quantisation; itemsize: bytes of a number there, 2 for float16."""
        return self.bytes_per_token(1, D) / (2 * D * itemsize)


INT8, INT4, INT2 = Format(8, 256, 64), Format(4, 64, 64), Format(2, 32, 128)
