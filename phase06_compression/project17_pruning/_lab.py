"""What the scripts share: a model, texts to calibrate, learn and judge by, methods by name, and folders."""

import copy
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.errors import UserError, demand
from common.generate import Sampling, generate
from phase01_foundation.project03_pretrain.town import ids_of
from phase05_quantization.project14_ptq.calibration import windows

from . import magnitude, sparsegpt, storage, structured, wanda

NAME = "project17_pruning"
ONE_BIT = 1 / 16  # the share of zeros from which a bit for each weight of 16 bits pays
CALIBRATION, HELD_OUT, LEARN = 101, 102, 103  # streams of TinyTown that no model of the chain was trained on


def by_magnitude(choose):
    """apply(model, batches, sparsity, pattern) of a method that looks at weights alone."""

    def apply(model, batches, sparsity, pattern=None):
        if not pattern:
            return magnitude.apply(model, sparsity, choose)
        masks = {name: magnitude.n_of_m(matrix.weight.detach().abs(), *pattern)
                 for name, matrix in magnitude.matrices(model).items()}  # fmt: skip
        return magnitude.settle(magnitude.hold(model, masks))

    return apply


def cut(model, batches, sparsity, pattern=None, layers=None):
    """Heads, neurons and perhaps layers; the rest gives what is left to reach the share of all blocks."""
    whole, there = model.config, len(model.blocks)
    layers = layers or there
    share = 1 - (1 - sparsity) * there / layers
    demand(layers <= there, f"the model has {there} layers: {layers} cannot stay")
    demand(share > -1e-9, f"without {there - layers} of {there} layers more than "
           f"{sparsity:.0%} are gone: take a larger share, or drop fewer")  # fmt: skip
    groups, neurons = structured.sizes(whole, share) if share > 0.01 else (whole.n_kv_head, whole.d_ff)
    return structured.apply(model, batches, groups, neurons, layers)


METHODS = {"magnitude": by_magnitude(magnitude.by_layer), "global": by_magnitude(magnitude.globally),
           "wanda": wanda.apply, "sparsegpt": sparsegpt.apply, "structured": cut}  # fmt: skip


def method(name):
    """apply(model, batches, sparsity, pattern) of a method; UserError for a name that is none."""
    demand(name in METHODS, f"no method is called {name!r}: there are {', '.join(METHODS)}")
    return METHODS[name]


def pattern_of(text):
    """"2:4" -> (2, 4); "" -> None. UserError for anything else."""
    if not text:
        return None
    n, _, m = text.partition(":")
    fits = n.isdigit() and m.isdigit() and 0 < int(n) < int(m)
    demand(fits, f"{text!r} is no pattern: say 2:4 for two of four, or nothing")
    return int(n), int(m)


def pruned(model, batches, name, sparsity, pattern=None, **more):
    """A copy of a model after a method."""
    return method(name)(copy.deepcopy(model), batches, sparsity, pattern, **more)


# ---- texts ----


def texts(tokenizer, count, length, stream=CALIBRATION):
    """`count` windows of `length` tokens each, (1, length), of a stream of TinyTown."""
    return windows(ids_of(tokenizer, stream, count * length), length, count)


@torch.no_grad()
def losses(model, batches) -> list[float]:
    """The mean loss of each window, in nats a token."""
    found = []
    for tokens in batches:
        tokens = tokens.to(model.norm.weight.device)
        found.append(F.cross_entropy(model(tokens[:, :-1])[0].float(), tokens[0, 1:]).item())
    return found


def perplexity(model, batches) -> float:
    values = losses(model, batches)
    return math.exp(min(sum(values) / len(values), 700))


def says(model, tokenizer, prompt, new):
    """(text, tokens/s), greedily, after two tokens that warm up."""
    ids = tokenizer.encode(prompt)
    for n in (2, new):
        began = time.perf_counter()
        answer = generate(model, [ids], Sampling(max_tokens=n, temperature=0.0), tokenizer=tokenizer)[0]
    return answer.text, len(answer.ids) / (time.perf_counter() - began)


# ---- models and folders ----


def plain_model(named, say, device="cpu"):
    """(folder, model in float32, tokenizer) of a model that nothing was done to."""
    folder = chain.find("base", named, say=say)
    return folder, hub.load(folder, device=device, dtype=torch.float32), tokenizers.load(folder)


def save(model, folder, *, tokenizer=None, card=None):
    """Write a folder of a pruned model: its shapes, and zeros by bitmask where that takes less room. Returns
    what was written, the model as it is in the file."""
    made = copy.deepcopy(model)
    plain = {"groups": made.config.n_kv_head, "neurons": made.config.d_ff}
    blocks = structured.shapes(made)
    if magnitude.sparsity_of(made) > ONE_BIT:
        storage.store(made)
    dtype = str(made.norm.weight.dtype).removeprefix("torch.")
    hub.mark(made, NAME, blocks=None if blocks == [plain] * len(blocks) else blocks,
             stored=storage.stored(made), dtype=dtype)  # fmt: skip
    hub.save(made, folder, tokenizer=tokenizer, card={"made_by": NAME, **(card or {})})
    return made


def load(folder, device="cpu"):
    """A folder that this project saved, its matrices made whole: as fast as they get."""
    model = hub.load(folder, device=device, restore={NAME: storage.restore})
    return storage.whole(model) if storage.stored(model) else model


def file_bytes(folder) -> int:
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def weights_of(model) -> int:
    """Weights that are not 0 and not counted twice."""
    return sum(int((p != 0).sum()) for p in model.parameters())


def counts(model) -> tuple[int, int]:
    """Weights of the matrices of the blocks, and of the whole model; zeros count."""
    blocks = sum(matrix.weight.numel() for matrix in magnitude.matrices(model).values())
    return blocks, sum(p.numel() for p in model.parameters())


def of_blocks(model, share) -> float:
    """A share of all weights, as the share of the blocks' that has to go for it."""
    blocks, every = counts(model)
    return share * every / blocks


def shares(cut, model) -> dict[str, float]:
    """What is left of the blocks, and of all."""
    left, whole = counts(cut), counts(model)
    return {"left of the blocks": left[0] / whole[0], "left of all": left[1] / whole[1]}


def write_masks(masks, path, made_of):
    """Masks in a file, a bit for each weight, with the fingerprint of the model that they were found for."""
    packed = {name: storage.pack(mask) for name, mask in masks.items()}
    save_file(packed, path, metadata={"masks": json.dumps({"model": made_of})})


def read_masks(path, model):
    """The masks in a file, for this model; UserError where it is no such file, or another model's."""
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("masks")
            packed = {name: file.get_tensor(name) for name in file.keys()} if said else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no file of masks ({str(error).splitlines()[0]}): train.py writes "
                        "masks.safetensors") from None  # fmt: skip
    demand(said, f"{path} is no file of masks: it holds something else, such as a model")
    return storage.unpack_masks(packed, json.loads(said)["model"], model)
