"""What the scripts share: a model, texts to calibrate on and texts to judge by, methods by name, sizes."""

import copy
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.errors import demand
from data.tinytown import TinyTown

from . import awq, gptq, rtn
from .calibration import windows

NAME = "project14_ptq"
METHODS = {
    "rtn": lambda model, batches, *how: rtn.apply(model, *how),
    "gptq": gptq.apply,
    "awq": awq.apply,
}
CALIBRATION, HELD_OUT = 101, 102  # streams of TinyTown that no model of the chain was trained on
LETTERS = 5  # characters that are surely less than two tokens


def method(name):
    """apply(model, batches, bits, group, symmetric) of a method; UserError for a name that is none."""
    demand(name in METHODS, f"no method is called {name!r}: there are {', '.join(METHODS)}")
    return METHODS[name]


def plain_model(named, say, device="cpu"):
    """(folder, model in float32, tokenizer) of a model that nothing was done to."""
    folder = chain.find("base", named, say=say)
    return folder, hub.load(folder, device=device, dtype=torch.float32), tokenizers.load(folder)


def town_ids(tokenizer, tokens, stream):
    """At least so many ids of a stream of TinyTown."""
    ids, start, town = [], 0, TinyTown()
    while len(ids) < tokens:
        text = town.text(LETTERS * tokens, stream, start)
        ids += tokenizer.encode(text)
        start += 1000
    return ids


def texts(tokenizer, count, length, stream=CALIBRATION):
    """`count` windows of `length` tokens each, (1, length), of a stream of TinyTown."""
    return windows(town_ids(tokenizer, count * length, stream), length, count)


@torch.no_grad()
def losses(model, batches) -> list[float]:
    """The mean loss of each window, in nats a token."""
    found = []
    for tokens in batches:
        tokens = tokens.to(model.norm.weight.device)
        logits = model(tokens[:, :-1]).float()
        found.append(F.cross_entropy(logits[0], tokens[0, 1:]).item())
    return found


def perplexity(model, batches) -> float:
    values = losses(model, batches)
    return math.exp(sum(values) / len(values))


def quantised(model, batches, name, bits, group=None, symmetric=True, tables=None):
    """A copy of a model after a method, noted for hub.save. tables: bits of embedding and head, or None."""
    made = method(name)(copy.deepcopy(model), batches, bits, group, symmetric)
    if tables:
        rtn.apply_to_tables(made, tables, group, symmetric)
    noted = {"bits": bits, "group": group, "symmetric": symmetric, "tables": tables}
    dtype = str(model.norm.weight.dtype).removeprefix("torch.")
    return hub.mark(made, NAME, **noted, dtype=dtype)


def load(folder, device="cpu"):
    """A folder that this project saved."""
    return hub.load(folder, device=device, restore={NAME: rtn.restore})


def bytes_of(model, floats=2) -> int:
    """Bytes of what a folder of the model holds, each shared tensor once, what is in floats at `floats`."""
    return sum(t.numel() * (floats if t.is_floating_point() else t.element_size())
               for t in hub.own(model).values())  # fmt: skip


def file_bytes(folder) -> int:
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def described(folder) -> str:
    """What a folder says was done to it."""
    config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    return ", ".join(f"{k} {v}" for entry in config.get("surgery", []) for k, v in entry["args"].items())
