"""A table in two thin parts: V x C becomes V x E times E x C, shared by both ends.

Before: tying.py made two tables one. New here: that one is still the largest matrix of a small model, and
most of its rows are words that hardly occur. ALBERT keeps E numbers for a token, and one matrix for all makes
C of them:

    tokens ──► table (V, E) ──► up (C, E) ──► x (C) … blocks … x (C) ──► upᵀ ──► E ──► tableᵀ ──► logits (V)

It is the tied model whose table is `table @ upᵀ`, of rank E at most: the naive version, and the oracle.
Unlike all other sharing here it saves FLOPs: the head multiplies by C E + V E numbers in place of V C.

Seam: the surgery, through `swap`. Lan et al. 2020, 1909.11942, section 3.1; the best matrix of a low rank:
Eckart & Young 1936.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import hub
from common.errors import demand
from common.exercise import exercise
from common.model import Embedding, swap

from .layer_sharing import BY


@exercise
def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(m, n) -> left (m, rank), right (n, rank): `left @ right.T` is the nearest matrix of that rank.

    U S Vᵀ = matrix; both sides get the root of the singular values, so that both have gradients of one size.
    """
    u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)  # (m, k), (k,), (k, n), largest s first
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (v[:rank].T * root).to(matrix.dtype)


def break_even(vocab_size: int, d_model: int) -> float:
    """The E at which two parts have as many numbers as one table: V E + E C = V C."""
    return vocab_size * d_model / (vocab_size + d_model)


class FactorisedEmbedding(nn.Module):
    """In place of Embedding: tokens (B, T) -> (B, T, C), through E numbers. Its parts start empty."""

    def __init__(self, old: Embedding, rank: int):
        super().__init__()
        V, C = old.weight.shape
        self.weight = nn.Parameter(old.weight.new_empty(V, rank))
        self.up = nn.Linear(rank, C, bias=False, device=old.weight.device, dtype=old.weight.dtype)
        self.dropout = old.dropout

    def full(self) -> Tensor:
        """The naive version: the table that this stands for, (V, C)."""
        return self.weight @ self.up.weight.T

    @exercise
    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, C): `full()[tokens]`, dropout and all, without ever making (V, C)."""
        return self.dropout(self.up(F.embedding(tokens, self.weight)))


class FactorisedHead(nn.Linear):
    """The head of a tied model: (..., C) -> (..., V), through the embedding's own two parts."""

    def __init__(self, embed: FactorisedEmbedding):
        super().__init__(*embed.weight.shape[::-1], bias=False, device="meta")  # E -> V
        self.weight, self.up = embed.weight, embed.up

    @exercise
    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., V): x times the transpose of the embedding's `full()`, narrow part first."""
        return F.linear(x @ self.up.weight, self.weight)  # (..., E), then (..., V)


def factorise(model: nn.Module, rank: int, *, fill: bool = True) -> nn.Module:
    """Put the embedding in two parts of E = rank, in place, and the head with it where they are tied.

    Filled with the nearest table of that rank (fill=False: left empty, for a folder's weights). Noted for
    hub.save; returns the model. UserError where it would save nothing, or the embedding is not the core's.
    """
    V, C = model.embed.weight.shape
    demand(1 <= rank < break_even(V, C), f"a table of {V:,} x {C} in two parts of {rank} is no smaller: "
           f"choose 1 to {math.ceil(break_even(V, C)) - 1}")  # fmt: skip
    tied, table = model.head.weight is model.embed.weight, model.embed.weight
    swap(model, Embedding, lambda old: FactorisedEmbedding(old, rank))
    if fill:
        with torch.no_grad():
            for part, value in zip((model.embed.weight, model.embed.up.weight), low_rank(table, rank),
                                   strict=True):  # fmt: skip
                part.copy_(value)
    if tied:
        model.head = FactorisedHead(model.embed)
    return hub.mark(model, BY, technique="embedding", rank=rank)
