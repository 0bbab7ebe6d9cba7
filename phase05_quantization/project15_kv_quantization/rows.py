"""Rows of numbers in 8, 4 or 2 bits: whole numbers (codes), and for each row a scale.

Came before: two or four bytes for every number. New here: a row of numbers shares one scale,

    x ≈ scale * c           8 bits: c from -127 to 127; 0 stays 0
    x ≈ low + scale * c     4 bits: c from 0 to 15; 2 bits: c from 0 to 3; the lowest of the row is 0

The step from one c to the next is as wide as the loudest of the row makes it, so a row should hold numbers of
one kind. Keys have loud *channels*: the same few, in all tokens. Values have none, but loud *tokens*. Hence

    keys    (S, D) -> (S / G, D, G)     a row is one channel of a group of G tokens
    values  (S, D) -> (S, D / g, g)     a row is g channels of one token

Liu et al. 2024, "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv 2402.02750.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from common.errors import demand
from common.exercise import exercise

BITS = (8, 4, 2)
SMALLEST = torch.finfo(torch.float16).tiny  # of a scale: below it, float16 has fewer digits


def per_tensor(x, bits):
    """The naive way, there and back: one scale for all of x. What is loud in x decides for all the rest."""
    top = 2 ** (bits - 1) - 1
    scale = (x.abs().amax() / top).clamp(min=SMALLEST)
    return (x / scale).round().clamp(-top, top) * scale


class Rows(NamedTuple):
    """Rows of W numbers each: codes (..., W * bits / 8), scale and low (..., 1) in float16.

    codes: int8, or uint8 with 8 / bits codes in a byte (see `pack`). low: None where bits is 8.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    low: torch.Tensor | None
    bits: int

    def part(self, index):
        """The rows at some places of the leading dimensions."""
        return Rows(*(x if x is None else x[index] for x in self[:3]), self.bits)

    def put(self, index, rows):
        """Write other rows there."""
        for mine, new in zip(self[:3], rows[:3], strict=True):
            if mine is not None:
                mine[index] = new

    @property
    def nbytes(self):
        """Codes, scales and lows: all that is kept."""
        return sum(x.nbytes for x in self[:3] if x is not None)

    @property
    def bound(self):
        """How far any number of a row can be off, (..., 1): half a step, and what float16 makes of `low`."""
        half = self.scale.double() / 2
        return half if self.low is None else half + self.low.double().abs() / 2048


def span(start, stop):
    """The place of groups start .. stop - 1 of keys (..., n, D, G), or of tokens of values (..., S, C, W)."""
    return ..., slice(start, stop), slice(None), slice(None)


def room(shape, bits, like):
    """Rows without anything in them yet: shape (..., W), on the device of `like`."""
    *rows, W = shape
    codes = like.new_zeros(*rows, W * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
    scale, low = (like.new_zeros(*rows, 1, dtype=torch.float16) for _ in range(2))
    return Rows(codes, scale, None if bits == 8 else low, bits)


# ---- numbers to codes, and back ----


@exercise
def quantize(x, bits):
    """x (..., W), float -> Rows. Each row by itself, rounded to the nearest step.

    8 bits: scale = largest absolute value / 127. Fewer: low = lowest value, and scale = (highest - low) /
    (2**bits - 1). low, then scale (at least SMALLEST) become float16 first; codes are made for those, and are
    never beyond their range. A NaN is not hidden: its row stays NaN.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if bits == 8:
        scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=SMALLEST).half()  # (..., 1)
        return Rows((x / scale).round().clamp(-127, 127).to(torch.int8), scale, None, bits)
    top = 2**bits - 1
    low = x.amin(-1, keepdim=True).half()
    scale = ((x.amax(-1, keepdim=True) - low) / top).clamp(min=SMALLEST).half()
    codes = ((x - low) / scale).round().clamp(0, top).to(torch.uint8)
    return Rows(pack(codes, bits), scale, low, bits)


def shifts(bits, device):
    """Where in a byte each of its codes begins: (8 / bits, 1), in bits."""
    return torch.arange(0, 8, bits, device=device, dtype=torch.uint8)[:, None]


def pack(codes, bits):
    """codes (..., W), uint8 below 2**bits -> (..., N), N = W * bits / 8: byte j holds codes j, j + N, …"""
    parts = codes.unflatten(-1, (8 // bits, -1))  # (..., 8 / bits, W * bits / 8)
    return (parts << shifts(bits, codes.device)).sum(-2, dtype=torch.uint8)


@exercise
def unpack(rows):
    """The codes of rows, one by one: (..., W). int8 as they are; uint8 out of bytes, as `pack` put them in.

    The lowest bits of byte j hold code j, the next ones code j + N, where a row has N bytes.
    """
    if rows.bits == 8:
        return rows.codes
    parts = rows.codes.unsqueeze(-2) >> shifts(rows.bits, rows.codes.device)  # (..., 8 / bits, bytes)
    return (parts & (2**rows.bits - 1)).flatten(-2)


def dequantize(rows, dtype=torch.float32):
    """Rows -> (..., W): scale * c, and low where there is one. Worked out in float32 at least."""
    wide = torch.promote_types(dtype, torch.float32)
    x = unpack(rows).to(wide) * rows.scale.to(wide)
    return (x if rows.low is None else x + rows.low.to(wide)).to(dtype)


# ---- which numbers form a row ----


def key_rows(k, group):
    """k (..., S, D) -> (..., S / group, D, group): a row is one channel of a group of tokens."""
    return k.unflatten(-2, (-1, group)).transpose(-2, -1)


def keys_of(rows):
    """The way back: (..., S / group, D, group) -> (..., S, D)."""
    return rows.transpose(-2, -1).flatten(-3, -2)


def value_rows(v, group):
    """v (..., S, D) -> (..., S, D / group, group): a row is `group` channels of one token."""
    return v.unflatten(-1, (-1, group))


@dataclass(frozen=True)
class Format:
    """bits: 8, 4 or 2. group: tokens in a row of keys, and channels in a row of values, or all that there are
    where a head has fewer. window: the last so many tokens, at least, are kept as they came."""

    bits: int = 8
    group: int = 64
    window: int = 64

    def __post_init__(self):
        demand(self.bits in BITS, f"{self.bits} bits are not supported: 8, 4 or 2 are")
        per = 8 // self.bits
        demand(self.group >= 1 and self.group % per == 0, f"a group of {self.group}: at least {per}, and a "
               f"multiple of {per}, as {per} codes of {self.bits} bits share a byte")  # fmt: skip
        demand(self.window >= 1, f"a window of {self.window} tokens: the newest, at least, has no scale yet: "
               "1 or more")  # fmt: skip

    def channels(self, D):
        """How many channels a row of values has in heads of D. UserError where they do not divide D."""
        g = min(self.group, D)
        demand(D % g == 0, f"a group of {g} does not divide the {D} channels of a head: choose one that does")
        demand(g * self.bits % 8 == 0, f"rows of {g} codes of {self.bits} bits do not fill whole bytes")
        return g

    @exercise
    def bytes_per_token(self, K, D):
        """Bytes that one quantised token takes in one layer with K heads of D channels, scales included.

        A number costs bits / 8 bytes. A row has a scale of 2 bytes, and below 8 bits a low of 2 more. A row
        of keys is shared by `group` tokens; a token has D / channels(D) rows of values a head. A float.
        """
        extra = 2 if self.bits == 8 else 4
        keys = D * self.bits / 8 + D * extra / self.group
        values = D * self.bits / 8 + D * extra / self.channels(D)
        return K * (keys + values)

    def share(self, D, itemsize=2):
        """What it takes of a cache without quantisation; itemsize: bytes a number there, 2 for float16."""
        return self.bytes_per_token(1, D) / (2 * D * itemsize)


INT8, INT4, INT2 = Format(8, 64, 64), Format(4, 32, 64), Format(2, 32, 128)
