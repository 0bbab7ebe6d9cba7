"""Experts on several processes: each holds some of them, and tokens travel to the experts and back.

Before: `moe.py`, all experts on one device. New here: two exchanges, *all to all*, around the same layer. Of
W processes each holds E / W experts and its own tokens; the router is small, and everybody has a copy.

    process 0: my rows, sorted by expert  [e0 e1 | e2 e3]  ──┐ ┌──►  mine: rows of e0 e1 from 0, then from 1
                                                             ├─┤     sort by expert, compute, sort back
    process 1: my rows, sorted by expert  [e0 e1 | e2 e3]  ──┘ └──►  mine: rows of e2 e3 from 0, then from 1
                                            ▲ the same way back, then weigh and sum

Rows sorted by expert are sorted by process already, as experts lie on the processes in order. First counts
are exchanged, so that everybody knows how much will come; then the rows. In training the gradients make both
journeys again, the other way round. An expert's gradient is then that of all processes' tokens, added up.

Lepikhin et al. 2020, 2006.16668 (GShard); Hwang et al. 2022, 2206.03382 (Tutel).
"""

from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from common.errors import demand
from common.exercise import exercise

from .moe import Rows, segments, sorted_segments


class AllToAll(torch.autograd.Function):
    """x (sum(give), C) -> (sum(take), C): the first give[0] rows go to process 0, the next give[1] to 1, …;
    what comes stands in the order of the senders, take[r] rows from process r."""

    @staticmethod
    def forward(ctx, x, give, take, group):
        ctx.give, ctx.take, ctx.group = give, take, group
        return send(x, give, take, group)

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy (sum(take), C) -> the gradient of x, (sum(give), C), and three times None.

        Each row's gradient goes back to where the row came from: `send`, with ctx.give and ctx.take.
        """
        return send(dy, ctx.take, ctx.give, ctx.group), None, None, None


def send(x, give, take, group):
    """x (sum(give), C) -> (sum(take), C), without a gradient: so many for, and so many from, each."""
    out = x.new_empty(sum(take), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), take, give, group=group)
    return out


def exchange_counts(counts, group):
    """counts (E,): rows of mine that each expert gets -> (W, E / W): what comes to mine, by sender."""
    W = dist.get_world_size(group)
    own = [len(counts) // W] * W
    return send(counts, own, own, group).view(W, -1)


@exercise
def regroup(coming):
    """coming (W, L): rows that came, by sender and expert -> (order (R,), inverse (R,)), int64, R their sum.

    The rows lie sender by sender, and in each expert by expert. order: those of expert 0 first, whoever sent
    them, in the order of the senders; then those of expert 1, … inverse: the way back.
    """
    W, L = coming.shape
    expert = torch.arange(L, device=coming.device).repeat(W).repeat_interleave(coming.flatten())  # (R,)
    order = expert.argsort(stable=True)
    return order, order.argsort()


@exercise
def travel(h, counts, experts, group=None):
    """What `moe.segments` does, with the experts of all processes.

    h (R, C): my rows by expert, counts (E,) for all E experts, experts: the E / W that are mine -> (R, C).
    Rows beyond those that are counted come out as zeros. All processes call this, also those with no row.
    """
    coming = exchange_counts(counts, group)  # (W, L)
    give, take = counts.view(len(coming), -1).sum(1).tolist(), coming.sum(1).tolist()
    order, inverse = regroup(coming)
    here = AllToAll.apply(h[: sum(give)], give, take, group)  # (rows that came, C), sender by sender
    here = Rows.apply(here, order, inverse)  # expert by expert
    y = Rows.apply(segments(here, coming.sum(0), experts), inverse, order)
    y = AllToAll.apply(y, take, give, group)  # (sum(give), C), in the order in which they left
    return nn.functional.pad(y, (0, 0, 0, len(h) - len(y)))


def shard(layer, group=None):
    """Keep this process's share of a MoE's experts, in place, and compute with all of them; return the layer.

    UserError where the experts cannot be divided evenly among the processes.
    """
    W, rank, E = dist.get_world_size(group), dist.get_rank(group), layer.config.experts
    demand(E % W == 0, f"{E} experts do not divide among {W} processes: choose a number of experts that does")
    layer.experts = layer.experts[rank * E // W : (rank + 1) * E // W]
    layer.run = partial(sorted_segments, compute=partial(travel, group=group))
    return layer
