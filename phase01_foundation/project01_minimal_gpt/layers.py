"""Two ways to keep numbers in bounds, two ways to bend them: LayerNorm, RMSNorm, GELU, SwiGLU by hand.

Before it: gpt.py took LayerNorm and GELU from torch. New here: what is inside them, and their successors.

    LayerNorm   GPT-2   take off the mean, divide by the spread      Ba, Kiros & Hinton 2016, arXiv 1607.06450
    RMSNorm     Llama   divide by the size, leave the mean alone     Zhang & Sennrich 2019, 1910.07467
    gelu        GPT-2   let a number through as far as it is large   Hendrycks & Gimpel 2016, 1606.08415
    SwiGLU      Llama   one projection decides what another passes   Shazeer 2020, 2002.05202

All of them work on the last dimension, each token for itself. They have the names and shapes of their twins
in torch and in common, so that either can take the other's weights.
"""

import math

import torch
from torch import nn

from common.exercise import exercise


class LayerNorm(nn.Module):
    """x (..., C) -> (..., C): every token gets mean 0 and variance 1, then a learned scale and shift."""

    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.eps = eps  # a token whose numbers are all equal would divide by zero
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    @exercise
    def forward(self, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)  # divided by C, not by C - 1
        return self.weight * centred / torch.sqrt(variance + self.eps) + self.bias


class RMSNorm(nn.Module):
    """x (..., C) -> (..., C): every token gets mean square 1, then a learned scale. No mean, no shift."""

    def __init__(self, d_model, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    @exercise
    def forward(self, x):
        size = torch.sqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * x / size


@exercise
def gelu(x):
    """x times the chance that a standard normal number is below x, in GPT-2's approximation by tanh.

    Far below 0 nothing passes, far above 0 everything, and in between there is no corner as in ReLU.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class SwiGLU(nn.Module):
    """x (..., C) -> (..., C): what one projection says, times how far another opens the gate."""

    def __init__(self, d_model, d_ff=None):
        super().__init__()
        d_ff = d_ff or hidden_width(d_model)
        self.w_gate = nn.Linear(d_model, d_ff, bias=False)
        self.w_up = nn.Linear(d_model, d_ff, bias=False)
        self.w_down = nn.Linear(d_ff, d_model, bias=False)

    @exercise
    def forward(self, x):
        gate = self.w_gate(x)
        gate = gate * torch.sigmoid(gate)  # SiLU, or "swish" with beta 1: the Sw of SwiGLU
        return self.w_down(gate * self.w_up(x))


def hidden_width(d_model, multiple=8):
    """8/3 of d_model, rounded up to a multiple (hardware likes round numbers).

    Three matrices of C x 8/3 C weigh 8 C², as much as the two of C x 4 C in a GELU layer: a fair comparison.

    >>> hidden_width(384), hidden_width(128)
    (1024, 344)
    """
    return multiple * math.ceil(8 * d_model / 3 / multiple)
