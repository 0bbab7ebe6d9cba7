"""Project 23's loop for a model in stages, which may be in parts as well, and in several rows.

An update is one step of the pipeline. What differs from 23: the loss is known to the last stage only, the
norm is that of all stages, and a rank reads from a checkpoint what its stages need.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.nn.utils import clip_grads_with_norm_

from common.errors import demand
from common.process import Stop, first_of, on_first, rank, several
from common.progress import Clock, Report
from common.recipe import METRICS, claim
from common.training import Reading
from phase08_parallelism.project23_tensor_parallelism import _loop, checkpoints, data_parallel
from phase08_parallelism.project23_tensor_parallelism.collectives import Wire
from phase08_parallelism.project23_tensor_parallelism.groups import ALONE, Library
from phase08_parallelism.project23_tensor_parallelism.tensor_parallel import finish_gradients, gradient_norm

from .pipeline import posted


@dataclass(frozen=True)
class Grid(_loop.Grid):
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
    mine = {}
    for name, every in lines.items():
        for line in every:
            group = dist.new_group(line)  # every rank takes part in making every group
            if dist.get_rank() in line:
                mine[name] = Library(group)
    return Grid(**mine, wire=posted(lines["pipe"]))


class Piped(nn.Module):
    """What the loop trains: this rank's stages, and the pipeline that runs them."""

    def __init__(self, pipeline):
        super().__init__()
        self.model, self.pipeline = pipeline.part, pipeline


class Loop(_loop.Loop):
    """A run in memory, of this rank. orders: of all ranks of a pipeline."""

    def __init__(self, objective, orders, batch_at, config, folder, grid: Grid, seed: int):
        super().__init__(objective, batch_at, config, folder, grid, False, seed)
        self.orders, self.busy, self.wall = orders, 0.0, 0.0

    def backward(self):
        batch, pipeline = self.batch_at(self.step), self.objective.pipeline
        self.tokens += batch[0].numel() * self.grid.data.world
        begin = time.perf_counter()
        total = self.grid.pipe.all_reduce(pipeline.step(batch, self.orders).float())
        self.wall += time.perf_counter() - begin
        self.busy += sum(slot.end - slot.begin for slot in pipeline.log)
        return total

    def clip(self):
        finish_gradients(self.model, self.grid.tensor)
        if self.grid.data.world > 1:
            data_parallel.average(self.model, self.grid.data)
        square = gradient_norm(self.model, self.grid.tensor).square()
        norm = self.grid.pipe.all_reduce(square).sqrt()
        if self.config.clip:
            clip_grads_with_norm_(self.trained, self.config.clip, norm)
        return norm

    def restore(self, folder):
        """Put everything back; the checkpoint may be of another number of stages."""
        notes = read(folder, self.tensors())
        self.step = self.saved = notes["step"]
        self.tokens, self.mark, self.clock = notes["tokens"], tuple(notes["mark"]), Clock(notes["seconds"])
        self.last = Reading(*notes["last"])._replace(stopping=False)


def read(folder: Path, tensors: dict[str, torch.Tensor]) -> dict:
    """Fill this rank's tensors from a checkpoint, whichever ranks wrote it; its notes."""
    reader = HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    wrong = sorted(name for name, x in tensors.items() if name not in known or known[name].size != x.shape)
    demand(not wrong, f"the checkpoint {folder} is of another model ({', '.join(wrong[:3])}): build the "
           "model that it was made with")  # fmt: skip
    with checkpoints.quiet():
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    return json.loads((folder / checkpoints.NOTES).read_text(encoding="utf-8"))


def train(loop: Loop, *, evaluate, say):
    """Project 3's `train` for this rank; goes on from the newest checkpoint in the folder, if any."""
    folder, config = loop.folder, loop.config
    saved = first_of(checkpoints.latest(folder))
    on_first(lambda: claim(folder, config, resume=True, say=lambda line: None))
    if saved:
        loop.restore(saved)
        say(f"going on from step {loop.step}")
    with loop.disk():
        loop.report = Report(folder / METRICS if rank() == 0 else None, loop.step, config.steps, say)
    loop.report.history = first_of(loop.report.history)
    try:
        with Stop() as stop:
            loop.run(evaluate, None, stop)
    finally:
        loop.report.close()
    return loop.report.history
