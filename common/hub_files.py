"""The files of a model folder: JSON, and weights in safetensors, whole or in shards. Pickle is never read."""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common.errors import UserError, demand
from common.files import whole_file, write_json

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_json(path):
    demand(path.is_file(), f"{path.parent} is no model folder: it holds no {path.name} (an unfinished run?)")
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    demand(isinstance(value, dict), f"{path} is damaged: it holds no JSON object")
    return value


def check_card(folder):
    """UserError if card.json names a file that is not there, or not with these bytes."""
    if not (folder / "card.json").is_file():
        return  # a foreign folder
    for name, expected in read_json(folder / "card.json").get("sha256", {}).items():
        path = folder / name
        why = f"{path} is not the file that card.json describes: it was changed, or its writing cut short"
        demand(path.is_file() and sha256(path) == expected, f"{why}; save the model again")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def read_weights(folder):
    """{name: tensor} of all the folder's safetensors files."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(read_json(index).get("weight_map", {}).values())
        demand(all(Path(name).name == name for name in names), f"{index} names files outside its folder")
    elif not (folder / "model.safetensors").is_file():
        pickled = [path.name for pattern in PICKLED for path in folder.glob(pattern)]
        unsafe = (
            f"{folder} holds its weights as pickle ({pickled[:1]}), which can run any code when it is read"
        )
        demand(not pickled, f"{unsafe}: convert it to safetensors first")
        raise UserError(f"{folder} holds no model.safetensors: no weights to load")
    weights = {}
    for path in (folder / name for name in sorted(names)):
        try:
            with safe_open(path, framework="pt") as file:
                weights.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is missing or damaged: {error}") from None
    return weights


def write_weights(folder, weights, shard_bytes):
    """Write model.safetensors, or shards of so many bytes (or one tensor) with an index. Returns names."""
    shards, size = [{}], 0
    for name, tensor in weights.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous().cpu()
        size += tensor.nbytes
    n = len(shards)
    names = (
        [f"model-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)] if n > 1 else ["model.safetensors"]
    )
    for name, shard in zip(names, shards, strict=True):
        with whole_file(folder / name) as part:
            save_file(shard, part, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if n > 1:
        where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(tensor.nbytes for tensor in weights.values())
        write_json(index, {"metadata": {"total_size": total}, "weight_map": where})
    stale = set(folder.glob("model*.safetensors")) - {folder / name for name in names}
    for path in stale | ({index} if n == 1 else set()):
        path.unlink(missing_ok=True)
    return [*names, *([index.name] if n > 1 else [])]
