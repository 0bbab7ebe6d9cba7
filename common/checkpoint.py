"""Checkpoints of unfinished runs: one safetensors file with all that is needed to go on, bit by bit.

A state is a tree of dicts with string keys, lists, tuples, tensors, numbers and strings. Its tensors go into
the body of the file, the rest as JSON into the header, with a checksum over both. One file, so that a
checkpoint is there whole or not at all; safetensors and JSON, so that reading one never runs anything.
"""
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from common.errors import UserError
from common.files import umask

FORMAT = "thirty-checkpoint-1"


# ---- a state in a file ----

def write(path: Path, state: dict) -> None:
    """Put `state` at `path`, whole; OSError, and what was at `path` still there, if that cannot be done."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(state, "", tensors, {}))
    header = {"format": FORMAT, "state": text, "crc32": str(_checksum(text, tensors))}
    writing = path.parent / ".writing"                # all that a killed writer leaves is in this folder
    shutil.rmtree(writing, ignore_errors=True)
    try:
        writing.mkdir(parents=True)
        save_file(tensors, writing / path.name, metadata=header)
        with open(writing / path.name, "r+b") as file:
            os.fsync(file.fileno())
        os.chmod(writing / path.name, 0o666 & ~umask())      # safetensors lets only their owner read them
        os.replace(writing / path.name, path)
    except SafetensorError as error:                  # so it says that the disk is full
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def read(path: Path) -> dict:
    """The state that `write` put at `path`, its tensors on the CPU. UserError for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no checkpoint: {_why(path, error)}") from None
    text = header.get("state", "")
    if header.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint: it is a safetensors file of another kind, such as a model")
    if header.get("crc32") != str(_checksum(text, tensors)):
        raise UserError(f"{path} is corrupt, its checksum does not match: restore a copy, or start a new run")
    return _unpack(json.loads(text), tensors)


def _why(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "there is no such file; name another one, or start a new run"
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        return "it is a pickle, which may run code when it is loaded, and so never is; start a new run"
    reason = str(error).split("\n")[0][:100]
    return f"it is truncated or corrupt ({reason}); restore a copy, or start a new run"


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    """For a flipped bit, which safetensors does not notice."""
    crc = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), crc)
    return crc


def _pack(tree: Any, name: str, tensors: dict[str, Tensor], seen: dict) -> Any:
    """`tree` as JSON, its tensors moved into `tensors`; one that stands in two places (a tie) moves once."""
    if isinstance(tree, Tensor):
        key = (tree.device, tree.data_ptr(), tree.dtype, tree.shape, tree.stride()) if tree.numel() else name
        if key not in seen:
            seen[key] = name
            alone = tree.detach().cpu().contiguous()
            view = alone.untyped_storage().nbytes() != alone.nbytes
            tensors[name] = alone.clone() if view else alone          # safetensors wants no shared storage
        return {"tensor": seen[key]}
    if isinstance(tree, Mapping):
        return {"dict": {key: _pack(value, f"{name}/{key}".lstrip("/"), tensors, seen)
                         for key, value in tree.items()}}
    if isinstance(tree, (list, tuple)):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_pack(value, f"{name}/{i}", tensors, seen) for i, value in enumerate(tree)]}
    return tree


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    (kind, value), = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _unpack(child, tensors) for key, child in value.items()}
    return (list if kind == "list" else tuple)(_unpack(child, tensors) for child in value)


# ---- what the state of a run consists of ----

def unwrap(objective: nn.Module) -> nn.Module:
    """The module inside DDP and torch.compile, whose parameters have their plain names."""
    while True:
        if isinstance(objective, DistributedDataParallel):
            objective = objective.module
        elif hasattr(objective, "_orig_mod"):
            objective = objective._orig_mod
        else:
            return objective


def weights(objective: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name. What FSDP2 has sharded is gathered, so all ranks have to call this."""
    return {name: _whole(value) for name, value in unwrap(objective).state_dict().items()}


def load_weights(objective: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy `saved` into `objective`; UserError, nothing copied, unless all names, shapes and dtypes match."""
    own = unwrap(objective).state_dict()
    differ = [name for name in own.keys() & saved.keys()
              if (own[name].shape, own[name].dtype) != (saved[name].shape, saved[name].dtype)]
    found = {"missing": own.keys() - saved.keys(), "unexpected": saved.keys() - own.keys(),
             "of another shape or dtype": differ}
    if any(found.values()):
        wrong = "; ".join(f"{what}: {_few(names)}" for what, names in found.items() if names)
        raise UserError(f"the checkpoint is of another model ({wrong}): build the model it was made with")
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(_like(value, own[name]))


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def optimizer_state(optimizer: Optimizer, objective: nn.Module) -> dict:
    """State and groups of `optimizer`, by the names of the parameters rather than their numbers."""
    order, raw = _order(optimizer, objective), optimizer.state_dict()
    return {"kind": type(optimizer).__name__,
            "state": {order[i]: {key: _whole(value) for key, value in entry.items()}
                      for i, entry in raw["state"].items()},
            "groups": [{**group, "params": [order[i] for i in group["params"]]}
                       for group in raw["param_groups"]]}


def load_optimizers(optimizers: Sequence[Optimizer], objective: nn.Module, saved: Sequence[Mapping]) -> None:
    """Put back what `optimizer_state` gave of each; UserError if the kinds or the parameters are others."""
    now = [(type(each).__name__, _order(each, objective)) for each in optimizers]
    then = [(each["kind"], [name for group in each["groups"] for name in group["params"]]) for each in saved]
    if now != then:
        made = " + ".join(kind for kind, _ in then)
        raise UserError(f"the checkpoint was made with the optimizer {made} on parameter groups that differ: "
                        "resume with the optimizer that the run was started with")
    for optimizer, state in zip(optimizers, saved, strict=True):
        _load_optimizer(optimizer, _order(optimizer, objective), state)


def _load_optimizer(optimizer: Optimizer, order: list[str], saved: Mapping) -> None:
    number = {name: i for i, name in enumerate(order)}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {number[name]: {key: _like(value, parameters[number[name]]) for key, value in entry.items()}
             for name, entry in saved["state"].items()}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in saved["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for i, entry in state.items():           # torch has cast them to the dtype of the parameter: undo that
        placed = optimizer.state[parameters[i]]
        for key, value in entry.items():
            if isinstance(value, Tensor) and placed[key].dtype != value.dtype:
                placed[key] = value.to(placed[key].device)


def _order(optimizer: Optimizer, objective: nn.Module) -> list[str]:
    names = {parameter: name for name, parameter in unwrap(objective).named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _whole(value: Any) -> Any:
    """A DTensor, as FSDP2 has them, gathered on the CPU; anything else as it is."""
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value


def _like(value: Any, target: Tensor) -> Any:
    """`value` sharded and strided as `target` is, if it is a tensor of its shape; anything else as it is."""
    if not (isinstance(value, Tensor) and value.shape == target.shape):
        return value
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor
        value = value.to(target.device)
        return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    # a fused optimizer walks through parameter and moments as they lie in memory
    return torch.empty_like(target, dtype=value.dtype, device="cpu").copy_(value)
