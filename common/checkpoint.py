"""Checkpoints of unfinished runs: one safetensors file holds all that is needed to go on bit by bit.

A state is a tree of dicts with string keys, lists, tuples, numbers, strings and tensors. The tensors go into the
file's body, the rest as JSON into its header, with a checksum over both. One file, so that a checkpoint is there
whole or not at all; safetensors and JSON, so that reading one never runs anything.
"""
import json
import os
import random
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from common.errors import UserError

FORMAT = "thirty-checkpoint-1"


def write(path: Path, state: dict) -> None:
    """Put `state` at `path` atomically: whole, or not at all and the file that was there stays. OSError if not."""
    writing = path.parent / ".writing"            # all that a killed writer leaves is in here
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(state, "", tensors, {}))
    header = {"format": FORMAT, "state": text, "crc32": str(_checksum(text, tensors))}
    try:
        save_file(tensors, writing / path.name, metadata=header)
        with open(writing / path.name, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(writing / path.name, path)
    except SafetensorError as error:              # how safetensors reports a full disk
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def read(path: Path) -> dict:
    """The state that `write` put at `path`, tensors on the CPU. UserError for anything else; nothing is executed."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}: train first, or name another folder") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no checkpoint: {_why(path, error)}; delete it or restore a copy") from None
    if header.get("format") != FORMAT:
        raise UserError(f"{path} is a safetensors file but no checkpoint of an unfinished run: load it as a model")
    if header.get("crc32") != str(_checksum(header.get("state", ""), tensors)):
        raise UserError(f"{path} is corrupt: its checksum does not match; delete it or restore a copy")
    return _unpack(json.loads(header["state"]), tensors)


def _why(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "it is not a file"
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        return "it is a pickle, which can run code when loaded, so it never is"
    return f"it is truncated or corrupt ({error})".replace("\n", " ")


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    """Catches a flipped bit, which safetensors does not."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), crc)
    return crc


def _pack(tree: Any, name: str, tensors: dict[str, Tensor], seen: dict) -> Any:
    """`tree` as JSON; its tensors move into `tensors`, one that occurs twice (a tie) only once."""
    if isinstance(tree, Tensor):
        key = (tree.device, tree.data_ptr(), tree.dtype, tree.shape, tree.stride()) if tree.numel() else name
        if key not in seen:
            seen[key] = name
            alone = tree.detach().cpu().contiguous()
            whole = alone.untyped_storage().nbytes() == alone.nbytes
            tensors[name] = alone if whole else alone.clone()     # safetensors refuses views of one storage
        return {"tensor": seen[key]}
    if isinstance(tree, dict):
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


# ---- what a run consists of ----

def unwrap(objective: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel and torch.compile, whose parameter names are the plain ones."""
    while inner := getattr(objective, "_orig_mod", None) or (
            objective.module if isinstance(objective, nn.parallel.DistributedDataParallel) else None):
        objective = inner
    return objective


def weights(objective: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, sharded ones gathered whole (so all ranks have to call this)."""
    return {name: _whole(value) for name, value in unwrap(objective).state_dict().items()}


def load_weights(objective: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy `saved` into `objective`; UserError, and nothing copied, unless names, shapes and dtypes all match."""
    own = unwrap(objective).state_dict()
    missing, unexpected = own.keys() - saved.keys(), saved.keys() - own.keys()
    wrong = [name for name in own.keys() & saved.keys() if (own[name].shape, own[name].dtype)
             != (saved[name].shape, saved[name].dtype)]
    found = [f"{what} {_few(names)}" for what, names in
             (("missing", missing), ("unexpected", unexpected), ("of another shape or dtype", wrong)) if names]
    if found:
        raise UserError(f"the checkpoint is of another model: {'; '.join(found)}; build the model it was made with")
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(_like(value, own[name]))


def _few(names) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def optimizer_state(optimizer: Optimizer, objective: nn.Module) -> dict:
    """The state and the groups of `optimizer`, keyed by parameter names instead of numbers."""
    order, raw = _order(optimizer, objective), optimizer.state_dict()
    state = {order[i]: {key: _whole(value) for key, value in entry.items()} for i, entry in raw["state"].items()}
    return {"state": state, "groups": [{**group, "params": [order[i] for i in group["params"]]}
                                       for group in raw["param_groups"]]}


def load_optimizer(optimizer: Optimizer, objective: nn.Module, saved: Mapping) -> None:
    """Put what `optimizer_state` gave into `optimizer`; UserError if its groups hold other parameters."""
    order = _order(optimizer, objective)
    number = {name: i for i, name in enumerate(order)}
    if [name for group in saved["groups"] for name in group["params"]] != order:
        raise UserError("the checkpoint's optimizer has other parameter groups: resume with the optimizer of the run")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {number[name]: {key: _like(value, parameters[number[name]]) for key, value in entry.items()}
             for name, entry in saved["state"].items()}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in saved["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for i, entry in state.items():    # torch casts moments to the parameter's dtype: put those back as they were
        for key, value in entry.items():
            placed = optimizer.state[parameters[i]][key]
            if isinstance(value, Tensor) and placed.dtype != value.dtype:
                optimizer.state[parameters[i]][key] = value.to(placed.device)


def _order(optimizer: Optimizer, objective: nn.Module) -> list[str]:
    names = {parameter: name for name, parameter in unwrap(objective).named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value        # a DTensor of FSDP2


def _like(value: Any, target: Tensor) -> Any:
    """`value` sharded as `target` is, if it is a tensor of the same shape; else as it is."""
    if not (hasattr(target, "full_tensor") and isinstance(value, Tensor) and value.shape == target.shape):
        return value
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def rng_state(device: torch.device) -> dict:
    """The state of every random generator a run may draw from: Python's, NumPy's, torch's, the device's."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state = {"python": [version, torch.tensor(words), gauss], "torch": torch.get_rng_state(),
             "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest]}
    if device.type in ("cuda", "mps"):
        state["device"] = getattr(torch, device.type).get_rng_state()
    return state


def set_rng_state(state: Mapping, device: torch.device) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type in ("cuda", "mps") and "device" in state:
        getattr(torch, device.type).set_rng_state(state["device"])
