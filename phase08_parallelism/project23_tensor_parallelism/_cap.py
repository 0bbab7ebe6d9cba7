"""Training under a cap on what a process may hold: the whole model, which fails, and a part of it.

The cap is RLIMIT_DATA, which counts what a process has allocated; RLIMIT_AS would also count addresses that
torch only reserves. So this is for Linux.
"""

import gc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from common.device import peak_memory, reset_peak
from common.model import GPT, ModelConfig

from . import tensor_parallel
from .groups import ALONE, Library
from .vocabulary import ParallelCausalLM

CPU = torch.device("cpu")


def possible() -> bool:
    return sys.platform.startswith("linux") and importlib.util.find_spec("resource") is not None


@contextmanager
def cap(room: int) -> Iterator[None]:
    """This process may hold `room` bytes more than it does now."""
    import resource

    with suppress(RuntimeError):
        torch.empty(1 << 60)  # a process's first exception wants memory of its own, which there will not be
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held("VmData") + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def held(name: str) -> int:
    """Bytes by /proc/self/status: VmData is what RLIMIT_DATA counts, VmRSS what is in memory."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def numbers(sizes, world=1) -> int:
    """Weights of the model, or of a rank's part of it."""
    with torch.device("meta"):
        model = GPT(ModelConfig(**sizes))
    return sum(p.numel() if p.dim() < 2 else p.numel() // world for p in model.parameters())


def trained(sizes, group, updates=2) -> float:
    """The loss of the last update. This rank's part is made as such: the whole is never in memory."""
    with torch.device("meta"):
        model = GPT(ModelConfig(**sizes))
    objective = ParallelCausalLM(tensor_parallel.apply(model, group).to_empty(device="cpu"))
    torch.manual_seed(0)
    for p in objective.parameters():
        torch.nn.init.normal_(p, std=0.02) if p.dim() > 1 else torch.nn.init.ones_(p)
    optimizer = torch.optim.AdamW(objective.parameters(), fused=True)
    tokens = torch.randint(sizes["vocab_size"], (1, sizes["max_seq_len"] + 1))
    for _ in range(updates):
        loss = objective((tokens[:, :-1], tokens[:, 1:]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def peaks(rank, world, sizes):
    """Most bytes in memory on each rank above what was there before: training its part, then the whole."""
    torch.set_num_threads(1)
    before, found = held("VmRSS"), {}  # taken once: what was freed may stay in this process
    for name, group in (("part", Library()), ("whole", ALONE)):
        reset_peak(CPU)
        trained(sizes, group)
        found[name] = peak_memory(CPU) - before
        gc.collect()
    return found


def under_a_cap(rank, world, sizes, room):
    """On each of `world` ranks, under a cap of `room` bytes for each weight of the whole: the whole model's
    end, and the loss of this rank's part."""
    torch.set_num_threads(1)
    small = {**sizes, "n_layer": 1, "d_model": 8 * sizes["n_head"], "d_ff": 8}
    trained(small, Library())  # connections and threads take what they want for themselves before the cap
    found = {"alone": "trained", "loss": None}
    with cap(room * numbers(sizes)):
        try:
            trained(sizes, ALONE)
        except RuntimeError as error:
            found["alone"] = str(error).strip().splitlines()[0][-90:]
        gc.collect()
        found["loss"] = trained(sizes, Library())
    return found
