"""Model folders, in and out: what the chain hands from project to project, and what the hub holds.

    model = load("data/models/base")             # or a Hugging Face name
    save(model, "data/models/mine", tokenizer=tokenizer, card={"command": "thirty run 4"})

model.safetensors     weights under the names of transformers, sharded with an index above shard_bytes
config.json           its keys; transformers reads the folder as it stands
tokenizer.json        and tokenizer_config.json, where a tokenizer was given
card.json             how it was made, and the sha256 of the files, which must match when it is loaded

A model after surgery (quantised, pruned, shared ...) has no name in transformers. `mark` notes what was
done; the folder then holds our own names and says "surgery" in config.json; to load it, the caller gives
the functions that rebuild the shapes. Attention functions (set_attend) are no part of a folder.
"""

import json
import re
from pathlib import Path

import torch

from common.errors import UserError, demand
from common.files import write_json
from common.hub_files import check_card, read_json, read_weights, sha256, write_weights
from common.hub_names import FAMILIES


def mark(model, by, **args):
    """Note a surgery: the technique file of `by` has restore(model, **args), which repeats it on shapes."""
    try:
        json.dumps(args)
    except TypeError as error:
        raise UserError(f"{by} cannot be noted in config.json: {error}") from None
    model.surgery = [*getattr(model, "surgery", []), {"by": by, "args": args}]
    return model


# reading


def load(folder_or_name, *, device="cpu", dtype=None, restore=None):
    """The GPT of a model folder or a Hugging Face name, in eval mode and in its file's dtype unless told.

    restore: {project: its restore function} for folders made by surgery. UserError where the folder is
    incomplete or damaged, is pickled, differs from its card, or holds what the core cannot compute.
    """
    folder = find(folder_or_name)
    config = read_json(folder / "config.json")
    check_card(folder)
    weights = read_weights(folder)
    model, family = build(config, folder)
    surgery, restore = config.get("surgery", []), restore or {}
    materialize(model)
    for entry in surgery:
        by = entry["by"]
        demand(by in restore, f"{folder} was changed by {by}: load it with that project's restore function")
        model = restore[by](model, **entry["args"]) or model
    fill(model, weights if surgery else family.to_ours(weights))
    model.surgery = surgery
    return model.to(device=device, dtype=dtype).eval()


def find(folder_or_name):
    """The folder itself, or where the hub's copy of that name lies."""
    folder, name = Path(folder_or_name), str(folder_or_name)
    if folder.is_dir():
        return folder
    hub_name = re.fullmatch(r"[\w.-]+/[\w.-]+|[\w.-]+", name)
    demand(hub_name and not folder.exists(), f"there is no folder {name}; models lie in data/models")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        reason = "to fetch it by name takes pip install huggingface_hub"
        raise UserError(f"there is no folder {name}, and {reason}") from None
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (OSError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"there is no folder {name}, and the hub gave no model of that name: {why}") from None


def build(config, folder):
    """The GPT that config.json describes, on the meta device, and its family."""
    kind = config.get("model_type")
    demand(kind in FAMILIES, f"{folder} holds a {kind!r}: of the families, the core is {', '.join(FAMILIES)}")
    demand("quantization_config" not in config, f"{folder} holds weights that another library quantised")
    try:
        with torch.device("meta"):
            return FAMILIES[kind].build(config), FAMILIES[kind]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/config.json is incomplete: {type(error).__name__} {error}") from None


def materialize(model):
    """Memory for a model of the meta device; a tie, which to_empty takes for two weights, is tied again."""
    model.to_empty(device="cpu")
    if model.config.tie_embeddings:
        model.head.weight = model.embed.weight


def own(model):
    """{name: tensor} of what the model must save: what has two names once, under the first."""
    seen = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        seen.setdefault(id(tensor), (name, tensor))
    return dict(seen.values())


@torch.no_grad()
def fill(model, weights):
    """Copy weights into a model that has exactly these names and shapes; else UserError."""
    mine = own(model)
    if "head.weight" in weights and "head.weight" not in mine:  # a tie that was saved twice
        twice = weights.pop("head.weight")
        same = torch.equal(twice, weights.get("embed.weight", twice))
        demand(same, "config.json ties head and embedding, but their weights differ")
    missing, strange = sorted(mine.keys() - weights.keys()), sorted(weights.keys() - mine.keys())
    both = f"{len(missing)} weights are missing {missing[:2]}, {len(strange)} are unknown {strange[:2]}"
    demand(not missing and not strange, f"weights and config.json do not belong together: {both}")
    for name, tensor in mine.items():
        new = weights[name]
        alike = new.shape == tensor.shape and new.is_floating_point() == tensor.is_floating_point()
        what = f"{name} is {tuple(new.shape)} {new.dtype}, not {tuple(tensor.shape)} {tensor.dtype}"
        demand(alike, f"weights and config.json do not belong together: {what}")
        tensor.data = new.clone()  # in the file's dtype, and not a view of the file


# writing


def save(model, folder, *, tokenizer=None, card=None, shard_bytes=2 << 30):
    """Write a model folder: weights, config.json, tokenizer, and last card.json, which vouches for the rest.

    card: what to say of how it was made (command, data, steps, metrics). UserError names the module that is
    in the way where transformers has no name for the model; `mark` says how it came about.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper has names of its own
    folder, surgery = Path(folder), getattr(model, "surgery", [])
    fits = tokenizer is None or tokenizer.vocab_size <= model.config.vocab_size
    demand(fits, "the tokenizer has more ids than the model: it is another model's")
    name = next(name for name in FAMILIES if FAMILIES[name].wears(model)) if surgery else identify(model)
    family = FAMILIES[name]
    config = {"architectures": [family.architecture], "model_type": name, **family.describe(model)}
    config |= {"dtype": str(model.embed.weight.dtype).removeprefix("torch.")}
    config |= special_ids(tokenizer) | ({"surgery": surgery} if surgery else {})
    weights = {name: tensor.detach() for name, tensor in own(model).items()}
    folder.mkdir(parents=True, exist_ok=True)
    written = write_weights(folder, weights if surgery else family.to_theirs(weights), shard_bytes)
    write_json(folder / "config.json", config)
    if tokenizer is not None:
        tokenizer.save(folder)
    described = [*written, "config.json", *(["tokenizer.json"] if tokenizer is not None else [])]
    card = {**(card or {}), "tokenizer": tokenizer and tokenizer.sha256}
    write_json(folder / "card.json", {**card, "sha256": {name: sha256(folder / name) for name in described}})


def special_ids(tokenizer):
    """bos, eos and pad for config.json; without a tokenizer null, as transformers would make some up."""
    ends = list(getattr(tokenizer, "eos_ids", ()))
    eos = ends[0] if len(ends) == 1 else ends or None
    pad, bos = getattr(tokenizer, "pad_id", None), getattr(tokenizer, "bos_id", None)
    return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}


def kinds(model):
    """{dotted name: class}. A wrapper that computes the same may say `stands_for = Block` in its class."""
    named = model.named_modules(remove_duplicate=False)
    return {name: getattr(module, "stands_for", type(module)) for name, module in named}


def identify(model):
    """The family that has the model's modules and weights, one for one; else UserError with what is not."""
    name = next(name for name in FAMILIES if FAMILIES[name].wears(model))
    with torch.device("meta"):
        plain = FAMILIES[name].build(FAMILIES[name].describe(model))
    here, there = kinds(model), kinds(plain)
    other = [n for n in {**here, **there} if here.get(n) is not there.get(n)]
    tensors, expected = ({n: t.shape for n, t in own(m).items()} for m in (model, plain))
    other += [n for n in {**tensors, **expected} if tensors.get(n) != expected.get(n)]
    if other:
        way, found = other[0], here.get(other[0])
        what = f"a {found.__name__}" if found else "shared, resized, or gone"
        cure = "undo that before saving (merge, untie), or note how it was made with hub.mark"
        raise UserError(f"{name} has no name for this model: {way or 'the model'} is {what}; {cure}")
    return name
