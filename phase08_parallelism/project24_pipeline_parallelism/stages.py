"""A model cut into stages: which blocks each has, and what is at its two ends.

Before: `model.blocks` ran in one loop on one rank. New here: a stage is some of these blocks in a row, the
first with the table in front of them, the last with the norm and the head behind. Seam: the contract; a stage
drives the blocks itself, as `GPT.hidden` does. Weights keep the names that they have in the whole model, so
that any number of stages can read a checkpoint.

One after the other the stages are the model. That is the naive way to use them, and the oracle.

A pipeline is as fast as its slowest stage. So the blocks are cut by what they cost, and the head, which may
be as dear as several blocks, counts.
"""

from torch import arange, nn

from common.errors import demand
from common.exercise import exercise


def costs_of(model):
    """Multiplications for each token, forwards: a number for each block, that of the head with the last's."""
    costs = [sum(p.numel() for p in block.parameters() if p.dim() > 1) for block in model.blocks]
    costs[-1] += model.head.weight.numel()
    return costs


@exercise
def partition(costs, parts):
    """Cut a row of costs into `parts` runs of at least one each so that the dearest is as cheap as can be ->
    [(start, stop), …]. UserError where there are fewer costs than parts.

    The last run is some costs[i:], and what is before it is cut as well as can be into one run fewer: so the
    best cut of the first n into k is the best over i of max(best cut of the first i into k - 1, costs[i:n]).
    """
    demand(1 <= parts <= len(costs), f"{len(costs)} blocks cannot be shared out over {parts} stages: each "
           "needs one")  # fmt: skip
    best = {(0, 0): (0, [])}  # (blocks, runs) -> (the dearest run, the runs)
    for k in range(1, parts + 1):
        for n in range(k, len(costs) + 1):
            tried = [(max(best[i, k - 1][0], sum(costs[i:n])), [*best[i, k - 1][1], (i, n)])
                     for i in range(k - 1, n) if (i, k - 1) in best]  # fmt: skip
            best[n, k] = min(tried, key=lambda pair: pair[0])
    return best[len(costs), parts][1]


class Stage(nn.Module):
    """The blocks start:stop of a model, taken over and not copied; the first and the last have its ends.

    number: which stage it is, from 0 on. A stage of a model cut by tensor_parallel.apply works as well.
    """

    def __init__(self, model, start, stop, number=0):
        super().__init__()
        self.config, self.rope, self.number = model.config, model.rope, number
        self.first, self.last = start == 0, stop == len(model.blocks)
        self.blocks = nn.ModuleDict({str(i): model.blocks[i] for i in range(start, stop)})
        if self.first:
            self.embed = model.embed
        if self.last:
            self.norm, self.head = model.norm, model.head

    @exercise
    def hidden(self, x):
        """Tokens (B, T), or what the stage before has made of them (B, T, C) -> (B, T, C), which the last
        stage norms. Positions are 0 … T - 1 for every stage; `self.rope(positions)` makes their angles."""
        positions = arange(x.size(1), device=x.device)  # (T,)
        x, rope = self.embed(x, positions) if self.first else x, self.rope(positions)
        for block in self.blocks.values():
            x = block(x, rope=rope, positions=positions)
        return self.norm(x) if self.last else x

    def forward(self, x):
        """(B, T) or (B, T, C) -> (B, T, C), or of the last stage the logits (B, T, V)"""
        x = self.hidden(x)
        return self.head(x) if self.last else x


def cut(model, parts, ranges=None):
    """All stages of a model, in their order; ranges: their blocks, by default those of `partition`."""
    ranges = ranges or partition(costs_of(model), parts)
    return [Stage(model, *ends, number) for number, ends in enumerate(ranges)]


class Part(nn.Module):
    """The stages of one rank as one module, with the whole model's names: for optimisers and checkpoints."""

    def __init__(self, stages):
        super().__init__()
        self.config = stages[0].config
        self.blocks = nn.ModuleDict({i: block for stage in stages for i, block in stage.blocks.items()})
        for stage in stages:
            for name in ("embed", "norm", "head"):
                if hasattr(stage, name):
                    setattr(self, name, getattr(stage, name))
