"""An adapter by itself: a folder of a few megabytes beside a model, in the layout of `peft`.

Before: lora.py holds A and B inside the model. New here: they leave it and come back, under the names that
transformers has for the matrices, so that `peft` reads what we wrote and we read what it wrote.

    adapter_config.json          rank, alpha, which matrices, the model it belongs to
    adapter_model.safetensors    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight, …
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import UserError, demand
from common.files import whole_file, write_json
from common.hub_files import read_json
from common.hub_names import llama_to_ours, llama_to_theirs, wears_gpt2

from . import lora

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
PLAIN = {  # what an adapter of peft may also have, and what it says where it has not
    "peft_type": "LORA", "bias": "none", "lora_bias": False, "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "fan_in_fan_out": False, "trainable_token_indices": None, "target_parameters": None,
}  # fmt: skip


def their_name(name: str) -> str:
    """blocks.0.attn.wq -> model.layers.0.self_attn.q_proj"""
    return next(iter(llama_to_theirs({f"{name}.weight": None}))).removesuffix(".weight")


def our_name(name: str) -> str:
    """The inverse; a name that is nobody's stays as it is."""
    return next(iter(llama_to_ours({f"{name}.weight": None}))).removesuffix(".weight")


def to_peft(model, base: str = "") -> tuple[dict, dict[str, Tensor]]:
    """(adapter_config.json, weights by peft's names) of a model with adapters. base: its folder or name.

    UserError for a model in GPT-2's dress: transformers has one matrix where the adapters are on three.
    """
    demand(not wears_gpt2(model), "GPT-2 keeps q, k and v in one matrix: no names for adapters on each")
    layers = lora.adapters(model)
    config = next(iter(layers.values())).config
    weights = {
        f"{PREFIX}{their_name(name)}.{part}": getattr(layer, ours).detach().cpu().contiguous()
        for name, layer in layers.items()
        for ours, part in PARTS.items()
        if getattr(layer, ours) is not None
    }
    targets = sorted({their_name(name).rpartition(".")[2] for name in layers})
    settings = {
        "task_type": "CAUSAL_LM", "base_model_name_or_path": base or None, "r": config.r,
        "lora_alpha": config.alpha, "lora_dropout": config.dropout, "use_rslora": config.rslora,
        "use_dora": config.dora, "target_modules": targets, "inference_mode": True,
        "init_lora_weights": True, **PLAIN,
    }  # fmt: skip
    return settings, weights


def is_copy(name: str, tensor: Tensor, model) -> bool:
    """Whether this is a table of the model itself, which peft saves where an adapter is on the head.

    UserError where it is, and is not this model's.
    """
    plain = name.removeprefix(PREFIX).replace(".base_layer.weight", ".weight").removesuffix(".weight")
    if our_name(plain) not in ("head", "embed"):
        return False
    mine = model.get_submodule(our_name(plain)).weight
    same = mine.shape == tensor.shape and torch.equal(mine.cpu(), tensor.to(mine.dtype))
    demand(same, f"the adapter was made on another model: its {name} is not this one's")
    return True


def by_layer(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{our name of a layer: {"A", "B", maybe "magnitude"}} from weights by peft's names."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        ours = next((ours for ours, part in PARTS.items() if name.endswith(f".{part}")), None)
        demand(ours, f"the adapter holds {name}, which is no part of LoRA or DoRA")
        layer = our_name(name.removeprefix(PREFIX).removesuffix(f".{PARTS[ours]}"))
        layers.setdefault(layer, {})[ours] = tensor
    demand(layers, "the adapter holds no weights")
    return layers


def from_peft(model, settings: dict, weights: dict[str, Tensor], *, kind=torch.nn.Linear):
    """Put an adapter of peft on a model, on the layers that it has weights for; returns the model.

    UserError where it does more than LoRA, rsLoRA and DoRA, or does not belong to this model.
    """
    for key, plain in PLAIN.items():
        said = settings.get(key, plain)
        demand(said == plain or not (said or plain), f"the adapter has {key} {said!r}: only {plain!r} here")
    layers = by_layer({name: t for name, t in weights.items() if not is_copy(name, t, model)})
    config = lora.LoRAConfig(
        r=settings["r"],
        alpha=settings["lora_alpha"],
        dropout=settings.get("lora_dropout", 0.0),
        rslora=settings.get("use_rslora", False),
        dora=settings.get("use_dora", False),
        targets=tuple(sorted({name.rpartition(".")[2] for name in layers} & {*lora.MATRICES, "head"})),
    )
    here = dict(model.named_modules(remove_duplicate=False))
    strange = [name for name in layers if type(here.get(name)) is not kind]
    demand(not strange, f"the adapter changes {strange[:1]}, which is no {kind.__name__} of this model")
    lora.apply(model, config, kind=kind, where=layers.__contains__)
    for name, layer in lora.adapters(model).items():
        fill(name, layer, layers[name])
    return model


@torch.no_grad()
def fill(name: str, layer: lora.LoRALinear, tensors: dict[str, Tensor]) -> None:
    """Copy the weights of one layer; UserError where a part is missing, or has another shape."""
    mine = {part: getattr(layer, part) for part in PARTS if getattr(layer, part) is not None}
    want, got = ({part: tuple(t.shape) for part, t in parts.items()} for parts in (mine, tensors))
    demand(want == got, f"the adapter does not fit {name}: it has {got}, the model has room for {want}")
    for part, tensor in tensors.items():
        mine[part].copy_(tensor)


def save(model, folder, base: str = "") -> None:
    """Write the adapter of a model as a folder that `peft.PeftModel.from_pretrained` reads."""
    settings, weights = to_peft(model, base)
    with whole_file(Path(folder) / WEIGHTS) as part:
        save_file(weights, part, metadata={"format": "pt"})
    write_json(Path(folder) / SETTINGS, settings)


def load(model, folder, *, kind=torch.nn.Linear):
    """Put the adapter of a folder on a model that is loaded already; returns the model."""
    folder = Path(folder)
    demand((folder / SETTINGS).is_file(), f"{folder} is no adapter: it holds no {SETTINGS}")
    demand((folder / WEIGHTS).is_file(), f"{folder} holds no {WEIGHTS}: pickled adapters are not read")
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} is damaged: {error}") from None
    settings = read_json(folder / SETTINGS)
    missing = [key for key in ("r", "lora_alpha") if key not in settings]
    demand(not missing, f"{folder / SETTINGS} does not say {missing}")
    return from_peft(model, settings, weights, kind=kind)
