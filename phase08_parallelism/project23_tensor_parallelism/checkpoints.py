"""Checkpoints of a model in parts, that any other number of ranks can read.

A rank's slice says nothing by itself; with the shape of the whole and its place in it, it does. So each slice
is handed to torch.distributed.checkpoint as a DTensor: this rank's part of a tensor that is shared out along
`dim`. It writes a file for each rank and, when reading, gives every rank the numbers that it asks for, from
whichever files they lie in. The files are safetensors; numbers that are no tensors go into a JSON beside.

A checkpoint is a folder that is renamed when all of it is written.
"""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from common.errors import UserError, demand
from common.files import write_json

from .tensor_parallel import Cut, cuts

NOTES = "notes.json"


@cache
def mesh(device: str, world: int, parts: int) -> DeviceMesh:
    """All ranks as (data-parallel rows, parts, copies of a part), where a row is `world` ranks."""
    ranks = torch.arange(dist.get_world_size()).view(-1, parts, world // parts)
    return DeviceMesh(device, ranks, mesh_dim_names=("rows", "parts", "copies"))


def place(x: torch.Tensor, cut: Cut, whole: torch.Size, world: int) -> torch.Tensor:
    """This rank's slice as a part of the whole: a DTensor that shares its memory with x."""
    if not dist.is_initialized() or x.dim() == 0:
        return x
    shared = Shard(cut.dim) if cut.parts > 1 else Replicate()
    return DTensor.from_local(
        x, mesh(x.device.type, world, cut.parts), (Replicate(), shared, Replicate()), run_check=False,
        shape=whole, stride=torch.empty(whole, device="meta").stride())  # fmt: skip


def state(model, optimizer, world: int) -> dict[str, torch.Tensor]:
    """Weights and the optimiser's tensors by name, each placed in the whole; they are read into in place.

    world: ranks that share one model. The optimiser has made a step, or its tensors are not there yet.
    """
    shares, found = cuts(model), {}
    for name, p in model.named_parameters():
        cut = shares[name]
        moments = {key: x for key, x in optimizer.state[p].items() if isinstance(x, torch.Tensor)}
        whole = whole_shape(model, name, p, cut)
        for key, x in {"weight": p.detach(), **moments}.items():
            found[f"{key}/{name}"] = place(x, cut, whole, world)
    return found


def whole_shape(model, name, p, cut) -> torch.Size:
    """The shape of the parameter of which p is a part."""
    shape, config = list(p.shape), model.config
    if cut.parts > 1:
        kind = name.split(".")[-2]
        sizes = {"embed": config.vocab_size, "head": config.vocab_size, "wq": config.n_head * config.head_dim,
                 "wo": config.n_head * config.head_dim, "wk": config.n_kv_head * config.head_dim,
                 "wv": config.n_kv_head * config.head_dim}  # fmt: skip
        shape[cut.dim] = sizes.get(kind, config.d_ff)
    return torch.Size(shape)


def write(folder: Path, tensors: dict[str, torch.Tensor], notes: dict) -> None:
    """Put a checkpoint at `folder`, called by all ranks; notes, those of the first, must fit into JSON."""
    first, alone = not dist.is_initialized() or dist.get_rank() == 0, not dist.is_initialized()
    writing = folder.with_name(f".{folder.name}")
    if first:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
    wait()
    with quiet():
        writer = HuggingFaceStorageWriter(str(writing), save_distributed=True)
        dcp.save(tensors, storage_writer=writer, no_dist=alone)
    wait()
    if first:
        write_json(writing / NOTES, notes)
        shutil.rmtree(folder, ignore_errors=True)
        writing.rename(folder)
    wait()


def read(folder: Path, tensors: dict[str, torch.Tensor], *, some: bool = False) -> dict:
    """Fill `tensors` from a checkpoint, whatever number of ranks wrote it; its notes.

    some: it may hold more than these, as where a rank has some of the blocks. UserError where there is none,
    or it is of another model.
    """
    demand((folder / NOTES).is_file(), f"{folder} is no checkpoint: name another folder, or start a new run")
    reader = HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    wrong = sorted(name for name, x in tensors.items() if name not in known or known[name].size != x.shape)
    if wrong or (len(known) != len(tensors) and not some):
        raise UserError(f"the checkpoint {folder} is of another model ({', '.join(wrong[:3]) or 'larger'})"
                        ": build the model that it was made with")  # fmt: skip
    with quiet():
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    return json.loads((folder / NOTES).read_text(encoding="utf-8"))


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warning that one process is alone, which it may be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def wait() -> None:
    """Until all ranks are here."""
    if dist.is_initialized():
        dist.barrier()


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in a folder of `step-N`; None: there is none."""
    found = [path for path in folder.glob("step-*") if (path / NOTES).is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
