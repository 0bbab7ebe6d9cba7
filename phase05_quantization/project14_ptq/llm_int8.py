"""LLM.int8(): whole numbers for nearly all inputs, floats for the few that are far too large.

Before: `integer.py` rounds each row of x by its largest magnitude. New here: in large models a few inputs,
always the same ones, are some twenty times as large as all others. They set the step of the whole row, and
the others, which carry the text, are rounded away. So the columns of x that reach a threshold are taken out
and multiplied in floats, with the same columns of the weights made whole; what is left has small steps:

    x wᵀ  =  x[:, large] · w[:, large]ᵀ  +  scales · (x8 · w8ᵀ) of the others

Which columns those are is seen anew in every product. Six is the paper's threshold; without any outlier this
is `integer.int8_linear`. Seam: `swap`, of a QuantLinear with 8 bits and a scale for each row.

Dettmers, Lewis, Belkada, Zettlemoyer 2022, 2208.07339 (NeurIPS). bitsandbytes does the same.
"""

import torch
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from common.model import swap

from .integer import int8_linear, rows_of_bytes
from .rtn import QuantLinear, in_blocks

THRESHOLD = 6.0


@exercise
def outliers(x: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """x (M, K) -> (K,) bool: the columns in which at least one row reaches the threshold, of either sign."""
    return (x.abs() >= threshold).any(0)


@exercise
def decomposed(x: Tensor, codes: Tensor, scale: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """x (M, K) floats, codes (N, K) int8, scale (N,) float32 -> x · (scale · codes)ᵀ, (M, N) float32.

    The outliers' columns in float32, with whole weights; the others by int8_linear, the outliers put to 0
    first, so that they do not set the scale of their row.
    """
    large = outliers(x, threshold)
    y = int8_linear(x.masked_fill(large, 0), codes, scale)  # (M, N)
    if large.any():
        y = y + x[:, large].float() @ (codes[:, large].float() * scale[:, None]).T
    return y


class Int8Linear(nn.Module):
    """A QuantLinear of 8 bits that multiplies by `decomposed`. `seen` counts outliers (in,), product by
    product."""

    def __init__(self, layer: QuantLinear, threshold: float = THRESHOLD):
        super().__init__()
        found = f"{layer.bits} bits with {layer.steps.size(1)} steps to a row"
        demand(rows_of_bytes(layer), f"LLM.int8() takes 8 bits, one step to a row and no zero, not {found}")
        demand(threshold > 0, f"the threshold must be above 0, not {threshold}")
        self.layer, self.threshold = layer, threshold
        self.register_buffer("codes", layer.codes, persistent=False)
        self.register_buffer("seen", torch.zeros(layer.in_features, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.size(-1))
        self.seen += outliers(flat, self.threshold)
        y = decomposed(flat, self.codes, self.layer.grid.scale.float()[:, 0], self.threshold)
        if self.layer.bias is not None:
            y = y + self.layer.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    @property
    def weight(self) -> Tensor:
        return self.layer.whole()


def plug(model, threshold: float = THRESHOLD):
    """Let the 8-bit matrices of the blocks and a quantised head multiply so; the model is returned."""
    return swap(model, QuantLinear, lambda old: Int8Linear(old, threshold),
                lambda name: in_blocks(name) or name == "head")  # fmt: skip
