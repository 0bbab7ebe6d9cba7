"""Dress for the core: other norms, feed-forwards, positions and frequencies, each for one seam.

    swap(model, RMSNorm, LayerNorm)                               the surgery
    swap(model, Rope, lambda old: Llama3Rope(old, factor=8.0))    the surgery, with settings
    set_attend(model, alibi_attend)                               the function
    gpt2(model)                                                   a whole architecture

Each class is made from the module it replaces and keeps the weights it can use.
Vaswani et al. 2017 (sinusoidal positions); Radford et al. 2019 (GPT-2); Press et al. 2021 (ALiBi); Dehghani
et al. 2023 (q/k norm); Grattafiori et al. 2024 (Llama 3's frequencies); Peng et al. 2023 (YaRN).
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import demand
from common.model import Attention, Embedding, RMSNorm, Rope, SwiGLU, distance, rotate, set_attend, swap


class LayerNorm(nn.LayerNorm):
    """RMSNorm that also subtracts the mean and has a bias: (..., C) -> (..., C)."""

    def __init__(self, old):
        super().__init__(old.weight.numel(), eps=old.eps)


def biased(old):
    """The linear layer `old` with a bias, which starts at zero; the weight is kept, not copied."""
    new = nn.Linear(old.in_features, old.out_features, device=old.weight.device, dtype=old.weight.dtype)
    new.weight = old.weight
    nn.init.zeros_(new.bias)
    return new


class GeluFFN(nn.Module):
    """Two matrices with biases and a GELU in GPT-2's tanh form: (..., C) -> (..., C). SwiGLU's gate goes."""

    def __init__(self, old):
        super().__init__()
        self.w_up, self.w_down = biased(old.w_up), biased(old.w_down)

    def forward(self, x):
        return self.w_down(F.gelu(self.w_up(x), approximate="tanh"))


class NoRope(nn.Module):
    """Takes Rope's place: positions turn nothing."""

    def __init__(self, old):
        super().__init__()

    def forward(self, positions):
        return None


class LearnedPositions(Embedding):
    """A learned vector per position is added to each token's: (B, T) -> (B, T, C)."""

    def __init__(self, old, max_seq_len):
        nn.Module.__init__(self)
        self.weight, self.dropout = old.weight, old.dropout
        self.positions = nn.Parameter(old.weight.new_empty(max_seq_len, old.weight.size(1)).normal_(std=0.02))

    def forward(self, tokens, positions):
        return self.dropout(F.embedding(tokens, self.weight) + F.embedding(positions, self.positions))


class SinusoidalPositions(Embedding):
    """Waves of lengths from 2 pi to 10,000 x 2 pi are added to each token's vector: (B, T) -> (B, T, C).

    The first half of C holds the sines, the second the cosines; the paper interleaves them, which is the same
    up to a permutation of C. Tokens are scaled by sqrt(C), as in the paper.
    """

    def __init__(self, old):
        nn.Module.__init__(self)
        self.weight, self.dropout = old.weight, old.dropout

    def forward(self, tokens, positions):
        C = self.weight.size(1)
        waves = 10_000.0 ** (-torch.arange(0, C, 2, device=positions.device).float() / C)  # (C/2,)
        angles = positions[..., None].float() * waves  # (T, C/2) or (B, T, C/2)
        where = torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.weight.dtype)
        return self.dropout(F.embedding(tokens, self.weight) * math.sqrt(C) + where)


def alibi_slopes(n_head):
    """One slope per head, float32 (H,): 2^(-8 h / H) where H is a power of two; else those of the next lower
    power, and every other one of the next higher power, as in the authors' code."""
    lower = 2 ** math.floor(math.log2(n_head))
    exponents = [8 * h / lower for h in range(1, lower + 1)]
    between = [8 * h / (2 * lower) for h in range(1, 2 * (n_head - lower), 2)]
    return 2.0 ** -torch.tensor(exponents + between)


def alibi_attend(q, k, v, *, positions, cache=None, mask=None):
    """attend with a penalty that grows with distance, instead of positions in q and k: wear NoRope with it.

    A mask replaces the causal rule; the penalty stays. Slopes go to heads 0 to H - 1: not for head shards.
    """
    if cache is not None:
        k, v = cache.update(k, v, positions)
    behind = distance(positions, k.size(2), cache)  # (T, S) or (B, 1, T, S)
    look = behind >= 0 if mask is None else mask
    slopes = alibi_slopes(q.size(1)).to(q.device)[:, None, None]
    bias = (-slopes * behind).masked_fill(~look, -math.inf).to(q.dtype)  # (H, T, S) or (B, H, T, S)
    gqa = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=gqa)


def alibi(model):
    """Put ALiBi on: the penalty in every attend, and no RoPE."""
    return set_attend(swap(model, Rope, NoRope), alibi_attend)


class QKNormAttention(Attention):
    """Each head's query and key is normed before RoPE (Qwen3): logits cannot grow with the weights."""

    def __init__(self, old, eps):
        nn.Module.__init__(self)
        self.head_dim, self.attend = old.head_dim, old.attend
        self.wq, self.wk, self.wv, self.wo = old.wq, old.wk, old.wv, old.wo
        self.q_norm, self.k_norm = RMSNorm(self.head_dim, eps), RMSNorm(self.head_dim, eps)

    def project(self, x, rope):
        q, k, v = (w(x).unflatten(-1, (-1, self.head_dim)) for w in (self.wq, self.wk, self.wv))
        q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)
        return rotate(q, rope), rotate(k, rope), v.transpose(1, 2)


class Llama3Rope(Rope):
    """Llama 3.1's frequencies: a pair that makes fewer than `low` turns within the old context is slowed by
    `factor`, one that makes more than `high` stays, those between are mixed in proportion."""

    def __init__(self, old, factor=8.0, low=1.0, high=4.0, original_max_seq_len=8192):
        super().__init__(old.head_dim, old.theta)
        demand(high > low and factor >= 1, "Llama3Rope needs high > low and factor >= 1")
        self.factor, self.low, self.high, self.original_max_seq_len = factor, low, high, original_max_seq_len

    def inv_freq(self, device):
        freq = super().inv_freq(device)
        turns = self.original_max_seq_len * freq / (2 * math.pi)  # full turns within the old context
        keep = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return keep * freq + (1 - keep) * freq / self.factor


class YarnRope(Rope):
    """YaRN's frequencies: a pair that makes more than `fast` turns within the old context stays, one that
    makes fewer than `slow` is slowed by `factor`, with a ramp over the pairs between. cos and sin are scaled
    (by 0.1 ln(factor) + 1 unless told), which sharpens attention over the longer context."""

    def __init__(self, old, factor, original_max_seq_len, fast=32.0, slow=1.0, scale=None):
        super().__init__(old.head_dim, old.theta)
        demand(factor >= 1 and fast > slow, "YarnRope needs factor >= 1 and fast > slow")
        self.factor, self.original_max_seq_len = factor, original_max_seq_len
        self.fast, self.slow = fast, slow
        self.scale = 0.1 * math.log(factor) + 1 if scale is None else scale

    def pair(self, turns):
        """The number of the pair that makes so many turns within the old context, as a fraction."""
        wave = self.original_max_seq_len / (turns * 2 * math.pi)
        return self.head_dim * math.log(wave) / (2 * math.log(self.theta))

    def inv_freq(self, device):
        freq = super().inv_freq(device)
        first = max(math.floor(self.pair(self.fast)), 0)
        last = min(math.ceil(self.pair(self.slow)), self.head_dim - 1)
        ramp = (torch.arange(len(freq), device=device) - first) / max(last - first, 0.001)
        slowed = ramp.clamp(0, 1)
        return (1 - slowed) * freq + slowed * freq / self.factor

    def forward(self, positions):
        cos, sin = super().forward(positions)
        return cos * self.scale, sin * self.scale


def gpt2(model):
    """Put GPT-2's architecture on: LayerNorm, GELU, biases, learned positions, no RoPE.

    The weights that both share stay: embedding, projections, w_up and w_down. Biases start at zero.
    """
    swap(model, RMSNorm, LayerNorm)
    swap(model, SwiGLU, GeluFFN)
    swap(model, nn.Linear, biased, where=lambda name: ".attn." in name)
    swap(model, Embedding, lambda old: LearnedPositions(old, model.config.max_seq_len))
    return swap(model, Rope, NoRope)
