"""Project 23's loop for a model in stages, which may be in parts as well, and in several rows.

An update is one step of the pipeline. What differs from 23: the loss is known to the last stage only, the
norm is that of all stages, and a rank reads from a checkpoint what its stages need.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.process import several
from phase08_parallelism.project23_tensor_parallelism import checkpoints, loop
from phase08_parallelism.project23_tensor_parallelism.collectives import Wire
from phase08_parallelism.project23_tensor_parallelism.groups import ALONE

from .pipeline import posted


@dataclass(frozen=True)
class Grid(loop.Grid):
    """The groups of a rank: `tensor` and `data` as in 23; `pipe`, which shares one model in stages, for sums,
    and its wires."""

    pipe: Any = ALONE
    wire: Any = ALONE.wire


def grid(tensor: int, data: int) -> Grid:
    """Ranks as (data, stages, tensor): neighbours share matrices, which is what talks most. All call this."""
    if not several():
        return Grid(wire=Wire())
    world = dist.get_world_size()
    ranks = torch.arange(world).view(data, world // (tensor * data), tensor)
    lines = {"tensor": ranks.flatten(0, 1).tolist(), "data": ranks.flatten(1).T.tolist(),
             "pipe": ranks.transpose(1, 2).flatten(0, 1).tolist()}  # fmt: skip
    return Grid(**loop.my_groups(lines), wire=posted(lines["pipe"]))


class Piped(nn.Module):
    """What the loop trains: this rank's stages, and the pipeline that runs them."""

    def __init__(self, pipeline):
        super().__init__()
        self.model, self.pipeline = pipeline.part, pipeline


class Loop(loop.Loop):
    """A run in memory, of this rank. orders: of all ranks of a pipeline."""

    def __init__(self, objective, orders, batch_at, config, folder, grid: Grid, seed: int):
        super().__init__(objective, batch_at, config, folder, grid, seed)
        self.orders, self.busy, self.wall = orders, 0.0, 0.0

    def backward(self):
        batch, pipeline = self.batch_at(self.step), self.objective.pipeline
        self.tokens += batch[0].numel() * self.grid.data.world
        begin = time.perf_counter()
        total = self.grid.pipe.all_reduce(pipeline.step(batch, self.orders).float())
        self.wall += time.perf_counter() - begin
        self.busy += sum(slot.end - slot.begin for slot in pipeline.log)
        return total

    def norm(self):
        """Of the gradients of all stages."""
        return self.grid.pipe.all_reduce(super().norm().square()).sqrt()

    def read(self, folder):
        """From a checkpoint of any number of stages, what these stages need."""
        return checkpoints.read(folder, self.tensors(), some=True)
