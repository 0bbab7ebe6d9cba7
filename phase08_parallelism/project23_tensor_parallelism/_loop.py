"""Project 3's loop for a model in parts: what a rank does not know of the others is asked of them.

`common.training.Loop` makes the updates. Three things differ: gradients are finished and averaged over the
data-parallel rows, the norm is that of all parts, and a checkpoint is written by all ranks, each its own.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
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
    mine = {}
    for name, lines in (("tensor", ranks.tolist()), ("data", ranks.T.tolist())):
        for line in lines:
            group = dist.new_group(line)  # every rank takes part in making every group
            if dist.get_rank() in line:
                mine[name] = Library(group)
    return Grid(**mine)


@contextmanager
def started(device: torch.device, patience: float) -> Iterator[torch.device]:
    """Under torchrun, a process group around the run, in which nobody waits longer than `patience` seconds;
    yields this process's device."""
    if not dist.is_torchelastic_launched():
        yield device
        return
    if device.type == "cuda":  # pragma: no cover - gpu
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=patience))
    try:
        yield device
    finally:
        dist.destroy_process_group()


def train(objective, batch_at, config, folder, grid: Grid, sequence: bool, seed: int, *, evaluate, say):
    """Project 3's `train` for this rank's part; goes on from the newest checkpoint in the folder, if any."""
    saved = first_of(checkpoints.latest(folder))
    on_first(lambda: claim(folder, config, resume=True, say=lambda line: None))
    loop = Loop(objective, batch_at, config, folder, grid, sequence, seed)
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


class Loop(training.Loop):
    """A run in memory, of this rank."""

    def __init__(self, objective, batch_at, config, folder, grid: Grid, sequence: bool, seed: int):
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
        norm = gradient_norm(self.model, self.grid.tensor)
        if self.config.clip:
            clip_grads_with_norm_(self.trained, self.config.clip, norm)
        return norm

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

    def restore(self, folder):
        """Put everything back; the checkpoint may be of another number of ranks."""
        notes = checkpoints.read(folder, self.tensors())
        self.step = self.saved = notes["step"]
        self.tokens, self.mark, self.clock = notes["tokens"], tuple(notes["mark"]), Clock(notes["seconds"])
        self.last = training.Reading(*notes["last"])._replace(stopping=False)
