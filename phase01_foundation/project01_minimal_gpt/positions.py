"""Four ways to tell a model where a token stands: sinusoids, a learned table, a rotation, a slope.

Before it: attention.py, which does not know order. What it gives a token is a mixture of values, and that is
the same in any order: shuffle the tokens, and the outputs are shuffled alike, and no more happens
(equivariance). New here: four ways to let order in, each at another place.

    sinusoids           added to the token     Vaswani et al. 2017, arXiv 1706.03762
    LearnedPositions    added to the token     GPT-2: Radford et al. 2019
    rotate              turns q and k          RoPE: Su et al. 2021, 2104.09864. Llama, Qwen and most since
    alibi               added to the scores    ALiBi: Press, Smith & Lewis 2021, 2108.12409. BLOOM, MPT
"""

import math

import torch
from torch import nn

from common.exercise import exercise


@exercise
def sinusoids(positions, d_model):
    """positions (T,) -> (T, C): column 2i is sin(p / 10000^(2i/C)), column 2i + 1 the cosine of the same.

    Each pair of columns is the hand of a clock; the first turns once in 2π tokens, the last in about 60,000.
    """
    rates = 10_000 ** (-torch.arange(0, d_model, 2) / d_model)  # (C/2,)
    angles = positions[:, None] * rates  # (T, C/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class LearnedPositions(nn.Module):
    """positions (T,) -> (T, C) from a table, trained like every other weight. It ends at max_seq_len."""

    def __init__(self, max_seq_len, d_model):
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(max_seq_len, d_model))

    def forward(self, positions):
        return self.table[positions]


@exercise
def rope_angles(positions, head_dim, theta=10_000.0):
    """positions (T,) -> angles (T, D/2): position p turns pair i by p / theta^(2i/D)."""
    rates = theta ** (-torch.arange(0, head_dim, 2) / head_dim)  # (D/2,)
    return positions[:, None] * rates


@exercise
def rotate(x, angles):
    """RoPE: x (..., T, D), angles (T, D/2) -> (..., T, D). Numbers i and i + D/2 of a token are a pair, and
    every pair is turned like a point on a circle: (a, b) -> (a cos - b sin, b cos + a sin).

    Turned by p and by s, q and k have a dot product that depends on p - s only: distance, not place.
    """
    a, b = x.chunk(2, dim=-1)  # (..., T, D/2) each
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


@exercise
def alibi_slopes(n_head):
    """A slope for each head (H,), from steep (it looks close by) to flat (it looks far).

    For a power of two: 2^(-8/H), 2^(-16/H), ... For any other number, the paper's rule: those of the power of
    two below, then every second one of the power of two above.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    finer = [2 ** (-8 * (i + 1) / (2 * below)) for i in range(2 * below)]
    return torch.tensor(slopes + finer[0::2][: n_head - below])


@exercise
def alibi(positions, n_head):
    """positions (T,) -> (H, T, T), to add to the scores: -slope times how far the key lies behind."""
    distance = positions[:, None] - positions[None, :]  # (T, T); below 0 where the mask rules
    return -alibi_slopes(n_head)[:, None, None] * distance
