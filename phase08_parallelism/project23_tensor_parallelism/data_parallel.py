"""The other axis: every rank has the whole model, or a slice of its numbers, and rows of its own.

Before: project 3 used torch's DDP and FSDP2. Here both stand by hand, so that you see that they are made of
the same three collectives. All of them compute the gradient of the mean over all ranks' rows:

    average   an all-reduce for each parameter, when backward has ended            the naive way
    Buckets   fewer and larger ones, begun while backward still runs               DDP
    Sharded   each rank keeps 1/N of the numbers; all-gather before a block is     FSDP, ZeRO stage 3
              used, reduce-scatter of its gradient behind it

`Sharded` is a `Gather` of regions.py, of weights in place of activations: its way back is a reduce-scatter.

Li et al. 2020, 2006.15704 (DDP); Rajbhandari et al. 2019, 1910.02054 (ZeRO); Zhao et al. 2023, 2304.11277.
"""

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from common.exercise import exercise

from .regions import Gather


def average(module, group):
    """Every gradient becomes the mean over the ranks, in place, one all-reduce after the other."""
    for p in module.parameters():
        p.grad.copy_(group.all_reduce(p.grad) / group.world)


def fill(parameters, most):
    """Parameters, in the model's order -> buckets: lists of them, in the order in which backward reaches
    them, that is from the last to the first; each of at most `most` bytes, or of one parameter that is
    larger. A new bucket is begun only where the next parameter does not fit."""
    buckets, room = [], 0
    for p in reversed(list(parameters)):
        if p.nbytes > room:
            buckets.append([])
            room = most
        buckets[-1].append(p)
        room -= p.nbytes
    return buckets


class Buckets:
    """Averages the gradients of a module while they come: call `finish` between backward and the optimiser.

    Buckets are sent off in one order on all ranks, each when it and those before it are full; the rest, of
    parameters that the loss did not use, by finish.
    """

    def __init__(self, module: nn.Module, group, most: int = 1 << 20):
        self.group, self.buckets = group, fill([p for p in module.parameters() if p.requires_grad], most)
        self.home = {p: i for i, bucket in enumerate(self.buckets) for p in bucket}
        self.begin()
        for p in self.home:
            p.register_post_accumulate_grad_hook(self.ready)

    def begin(self):
        self.missing = [len(bucket) for bucket in self.buckets]
        self.waits = []  # of the buckets sent off, in their order: functions that give the sum

    @exercise
    def ready(self, p):
        """The gradient of p is there: count it, then send off every bucket that may go now."""
        self.missing[self.home[p]] -= 1
        while len(self.waits) < len(self.buckets) and self.missing[len(self.waits)] == 0:
            self.send()

    def send(self):
        """Begin the sum of the next bucket's gradients, laid behind one another."""
        bucket = self.buckets[len(self.waits)]
        flat = [torch.zeros_like(p).view(-1) if p.grad is None else p.grad.view(-1) for p in bucket]
        self.waits.append(self.group.start(torch.cat(flat)))

    def finish(self):
        """Wait for all sums; every gradient becomes the mean over the ranks."""
        while len(self.waits) < len(self.buckets):
            self.send()
        for bucket, wait in zip(self.buckets, self.waits, strict=True):
            for p, mean in zip(
                bucket, (wait() / self.group.world).split([p.numel() for p in bucket]), strict=True
            ):
                p.grad = mean.view_as(p)
        self.begin()


class Sharded(nn.Module):
    """A module of whose numbers this rank keeps 1/world, in one vector, its only parameter.

    They are gathered before it is used and forgotten behind it, in the backward pass once more. The gradient
    is the mean over the ranks, of the vector. Give each rank rows of its own.
    """

    def __init__(self, module: nn.Module, group):
        super().__init__()
        self.group, named = group, dict(module.named_parameters())
        self.shapes = {name: p.shape for name, p in named.items()}
        flat = torch.cat([p.detach().flatten() for p in named.values()])
        flat = torch.cat((flat, flat.new_zeros(-len(flat) % group.world)))  # (n,), a multiple of world
        self.shard = nn.Parameter(flat.chunk(group.world)[group.rank].clone())
        self.hollow = (module.to("meta"),)  # in a tuple: its parameters, which hold nothing, are not ours

    @exercise
    def gathered(self, shard):
        """This rank's vector -> {name: tensor of its shape}: the whole weights, through which gradients flow.

        The gradient of what is gathered is divided by world before it is added up over the ranks.
        """
        flat = Gather.apply(shard, self.group, 0)
        if flat.requires_grad:
            flat.register_hook(lambda grad: grad / self.group.world)
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = flat[: sum(sizes)].split(sizes)
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def run(self, shard, args, kwargs):
        return functional_call(self.hollow[0], self.gathered(shard), args, kwargs)

    def forward(self, *args, **kwargs):
        self.hollow[0].train(self.training)
        if not torch.is_grad_enabled():
            return self.run(self.shard, args, kwargs)
        # recomputed, so that between forward and backward nobody holds the gathered weights
        return checkpoint(self.run, self.shard, args, kwargs, use_reentrant=False)
