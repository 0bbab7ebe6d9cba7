"""The models that are compared: one set of sizes, shared in many ways, each drawn from the same seed."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from common.device import seed_all
from common.model import GPT, ModelConfig

from .factorised import factorise
from .layer_sharing import adjacent, cycle, sandwich, share
from .tying import names, tie


def untied(config):
    """A new model whose table is drawn at 1 / √C, so that a row has length 1.

    The core's 0.02 is for matrices. In a tie every row of the table moves in every update, as the head's, by
    about the learning rate and nearly alike; rows that begin at 0.02 are soon lost in what all have in
    common, and the blocks cannot tell tokens apart for long.
    """
    model = GPT(config)
    nn.init.normal_(model.embed.weight, std=config.d_model**-0.5)
    return model


def tied(config):
    return tie(untied(config))


def half(config):
    """Half as many layers, tied."""
    return tied(replace(config, n_layer=max(1, config.n_layer // 2)))


def whole(plan, part="block"):
    """Tied, and its layers shared by a plan."""
    return lambda config: share(tied(config), plan(config.n_layer), part)


WAYS: dict[str, tuple[str, Callable[[ModelConfig], GPT]]] = {
    "untied": ("two tables, every layer its own", untied),
    "tied": ("one table", tied),
    "twice": ("one table, half as many blocks, each run twice at once",
              whole(lambda n: adjacent(n, max(1, n // 2)))),
    "half": ("one table, half as many blocks, each run once", half),
    "cycle": ("one table, half as many blocks, all run and then all again",
              whole(lambda n: cycle(n, max(1, n // 2)))),
    "sandwich": ("one table, one block between the first and the last", whole(sandwich)),
    "albert": ("one table, one block", whole(lambda n: adjacent(n, 1))),
    "attention": ("one table, one attention", whole(lambda n: adjacent(n, 1), "attn")),
    "feed-forward": ("one table, one feed-forward", whole(lambda n: adjacent(n, 1), "ffn")),
    "factorised": ("one table in two parts of a third of the width",
                   lambda config: factorise(tied(config), max(1, config.d_model // 3))),
}  # fmt: skip


def build(way: str, config: ModelConfig, seed: int, device="cpu") -> GPT:
    """A new model, shared in this way. config.tie_embeddings is False: the ways tie."""
    seed_all(seed)
    return WAYS[way][1](config).to(device)


def on_meta(way: str, config: ModelConfig) -> GPT:
    """The same, without memory for its weights: to be counted."""
    with torch.device("meta"):
        return WAYS[way][1](config)


def breakdown(model) -> dict[str, int]:
    """{part: its parameters, each counted once, where its first name is}."""
    parts = {"table": 0, "head": 0, "attention": 0, "feed-forward": 0, "norms": 0}
    for parameter, (name, *_) in names(model).items():
        kind = next((kind for word, kind in (("norm", "norms"), ("embed", "table"), ("head", "head"),
                                             (".attn.", "attention")) if word in name), "feed-forward")
        parts[kind] += parameter.numel()  # fmt: skip
    return parts
