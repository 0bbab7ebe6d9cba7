"""The two ends of the model in parts: a table cut by its rows, some of the logits on each rank, their loss.

Logits are the largest tensor of a training: B · T · V numbers. Gathered, each rank would hold all of them;
so the loss is taken of the parts, and what goes over the wires are three numbers a token instead of V:

    loss = log sum_v exp(l_v - top) - (l_target - top)     top: the largest, so that exp does not overflow

Shoeybi et al. 2019, 1909.08053, section 3.
"""

import torch
import torch.nn.functional as F
from torch import nn

from common.exercise import exercise
from common.model import Embedding
from phase01_foundation.project03_pretrain.objectives import IGNORE

from .regions import Join, Region, Sum


class VocabEmbedding(Embedding):
    """The rows start:stop of a table: tokens (B, T) of the whole vocabulary -> (B, T, C)."""

    def __init__(self, old, start, stop, region: Region):
        nn.Module.__init__(self)
        self.start, self.region, self.dropout = start, region, old.dropout
        self.weight = nn.Parameter(old.weight.detach()[start:stop].clone())  # (V/N, C)

    @exercise
    def forward(self, tokens, positions):
        """Zeros for tokens whose row another rank has; the sum over the ranks is the whole table's answer.
        Dropout comes last, where the sum is known. positions: not used, as in common."""
        mine = (tokens >= self.start) & (tokens < self.start + self.weight.size(0))  # (B, T)
        x = F.embedding((tokens - self.start).where(mine, 0), self.weight)  # (B, T, C)
        return self.dropout(self.region.leave(x * mine[..., None]))


class VocabHead(nn.Module):
    """The outputs start:stop of the head."""

    def __init__(self, old, start, stop, region: Region):
        super().__init__()
        self.start, self.vocab_size, self.region = start, old.out_features, region
        self.weight = nn.Parameter(old.weight.detach()[start:stop].clone())  # (V/N, C)

    def part(self, x):
        """(B, T, C) -> this rank's logits, (B, T, V/N)"""
        return F.linear(self.region.enter(x), self.weight)

    def forward(self, x):
        """(B, T, C) -> all logits, (B, T, V), on every rank. The last ranks' parts may be shorter."""
        part, world = self.part(x), self.region.group.world
        missing = -(-self.vocab_size // world) - part.size(-1)
        return Join.apply(F.pad(part, (0, missing)), self.region.group)[..., : self.vocab_size]


@exercise
def cross_entropy(logits, targets, start, group):
    """Mean surprise in nats, a scalar, the same on every rank: logits (B, T, V/N), those of the ids from
    `start` on; targets (B, T), of the whole vocabulary. Targets equal to IGNORE do not count.

    Three sums or maxima over the ranks of (B · T,) numbers each. What flows back to the logits is what flows
    back to the whole ones: through `Sum`, and not through the largest.
    """
    logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))  # (n, V/N)
    targets = targets.flatten()  # (n,)
    top = group.all_reduce(logits.detach().amax(1), torch.maximum)  # (n,)
    logits = logits - top[:, None]
    total = Sum.apply(logits.exp().sum(1), group)  # (n,)
    mine = (targets >= start) & (targets < start + logits.size(1))
    place = (targets - start).where(mine, 0)
    asked = Sum.apply(logits.gather(1, place[:, None])[:, 0] * mine, group)  # (n,)
    counts = targets != IGNORE
    return ((total.log() - asked) * counts).sum() / counts.sum().clamp(min=1)


class ParallelCausalLM(nn.Module):
    """Project 3's CausalLM for a model in parts: (inputs, targets), each (B, T) -> loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        inputs, targets = batch
        head = self.model.head
        return cross_entropy(head.part(self.model.hidden(inputs)), targets, head.start, head.region.group)
