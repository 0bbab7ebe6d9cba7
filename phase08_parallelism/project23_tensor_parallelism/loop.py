"""Project 3's loop for a model in parts: what a rank does not know of the others is asked of them.

`common.training.Loop` makes the updates. Three things differ: gradients are finished and averaged over the
data-parallel rows, the norm is that of all parts, and a checkpoint is written by all ranks, each its own.
"""

import shutil
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.utils import clip_grads_with_norm_

from common import training
from common.process import Stop, first_of, on_first, rank, several
from common.progress import Clock, Report
from common.recipe import METRICS, claim

from . import checkpoints, data_parallel
from .groups import ALONE, Library
from .tensor_parallel import finish_gradients, gradient_norm


@dataclass(frozen=True)
class Grid:
    """The two groups of a rank: those that share its model, and those that have the same part of it."""

    tensor: Any = ALONE
    data: Any = ALONE


def grid(parts: int) -> Grid:
    """Ranks in rows of `parts`: a row shares one model, a column has one part of it. All ranks call this."""
    if not several():
        return Grid()
    ranks = torch.arange(dist.get_world_size()).view(-1, parts)
    return Grid(**my_groups({"tensor": ranks.tolist(), "data": ranks.T.tolist()}))


def my_groups(lines: dict[str, list[list[int]]]) -> dict[str, Library]:
    """{axis: the group of this rank}, where {axis: [the ranks of a group, ...]}. All ranks call this."""
    mine = {}
    for name, every in lines.items():
        for line in every:
            group = dist.new_group(line)  # every rank takes part in making every group
            if dist.get_rank() in line:
                mine[name] = Library(group)
    return mine


class Loop(training.Loop):
    """A run in memory, of this rank: `objective` holds its part, `model`. Project 24 has one for stages."""

    def __init__(self, objective, batch_at, config, folder, grid: Grid, seed: int, sequence: bool = False):
        super().__init__(objective, batch_at, config, folder, training.adamw)
        self.grid, self.sequence, self.seed, self.model = grid, sequence, seed, objective.model
        for p in self.trained:  # so that there is where a checkpoint can be read to
            moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizers[0].state[p] = {"step": torch.tensor(0.0, device=self.device), **moments}

    def backward(self):
        """What is drawn depends on the update and on the rows, not on this rank's part of the model: ranks
        that share one drop the same numbers, and a run that goes on drops what it would have dropped."""
        torch.manual_seed(hash((self.seed, self.step, self.grid.data.rank)) % 2**63)
        before = self.tokens
        loss = super().backward()
        self.tokens = before + (self.tokens - before) // self.grid.tensor.world
        return loss

    def clip(self):
        """Gradients made whole, then clipped by the norm of those of the whole model."""
        finish_gradients(self.model, self.grid.tensor, self.sequence)
        if self.grid.data.world > 1:
            data_parallel.average(self.model, self.grid.data)
        norm = self.norm()
        if self.config.clip:
            clip_grads_with_norm_(self.trained, self.config.clip, norm)
        return norm

    def norm(self):
        """Of the gradients of the whole model."""
        return gradient_norm(self.model, self.grid.tensor)

    def tensors(self):
        return checkpoints.state(self.model, self.optimizers[0], self.grid.tensor.world)

    def save(self):
        self.catch_up()
        if self.saved == self.step:
            return
        with self.clock.paused(), self.disk():
            notes = {"step": self.step, "tokens": self.tokens, "seconds": self.clock.seconds,
                     "mark": self.mark, "last": list(self.last)}  # fmt: skip
            checkpoints.write(self.folder / f"step-{self.step}", self.tensors(), notes)
        if rank() == 0 and self.saved:
            shutil.rmtree(self.folder / f"step-{self.saved}", ignore_errors=True)
        self.saved = self.step

    def read(self, folder):
        """Fill weights and moments from a checkpoint; its notes."""
        return checkpoints.read(folder, self.tensors())

    def restore(self, folder):
        """Put everything back; the checkpoint may be of another number of ranks."""
        notes = self.read(folder)
        self.step = self.saved = notes["step"]
        self.tokens, self.mark, self.clock = notes["tokens"], tuple(notes["mark"]), Clock(notes["seconds"])
        self.last = training.Reading(*notes["last"])._replace(stopping=False)


def train(loop: Loop, *, evaluate, say):
    """Project 3's `train` for a rank; goes on from the newest checkpoint in the folder, if any."""
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
