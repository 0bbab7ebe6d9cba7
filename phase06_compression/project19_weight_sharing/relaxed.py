"""Layers that share almost everything: one matrix for a group, and a thin correction for each layer.

Before: layer_sharing.py made layers equal. New here: each layer keeps its own norms and, beside every shared
matrix, an adapter of rank r, project 5's LoRA, so that layers that were trained apart can be joined at little
loss:

    layer l:   W_l  ≈  W_shared + B_l A_l        W_shared: the first layer's matrix, or the mean
                                             B_l A_l: the nearest of rank r to W_l - W_shared

    r = 0: layer_sharing.share, but for the norms           r = full: the model that it was, exactly

It costs what it adds: r (in + out) weights for each matrix of each layer, and a few FLOPs more, not fewer.

Seam: the surgery, through `swap`. Relaxed recursive transformers: Bae et al. 2025, 2410.20672.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common import hub
from common.errors import demand
from common.exercise import exercise
from common.model import swap
from phase02_finetuning.project05_lora.lora import LoRAConfig, LoRALinear

from .factorised import low_rank
from .layer_sharing import BY, check, members


@exercise
def corrections(weights: Sequence[Tensor], shared: Tensor, rank: int) -> list[tuple[Tensor, Tensor]]:
    """The matrices of a group's layers, each (out, in), and what they share, (out, in) -> (B, A) for each.

    B (out, rank) and A (rank, in): shared + B A is as near to the layer's own matrix as that rank allows.
    """
    parts = [low_rank(weight - shared, rank) for weight in weights]
    return [(left, right.T) for left, right in parts]


@torch.no_grad()
def joined(layers: Sequence[nn.Linear], rank: int, mean: bool, fill: bool) -> list[LoRALinear]:
    """One adapter for each of a group's linear layers, all around one and the same matrix.

    The layer that gave the matrix needs no correction: it keeps project 5's start, A random and B zero. Were
    both zero, no gradient would reach either.
    """
    shared = nn.Linear(layers[0].in_features, layers[0].out_features, bias=False, device="meta")
    shared.weight = nn.Parameter(torch.empty_like(layers[0].weight))
    made = [LoRALinear(shared, LoRAConfig(r=rank, alpha=rank)) for _ in layers]  # alpha / r: a scale of 1
    shared.requires_grad_(True)  # project 5 trains the adapter alone; here both learn
    if fill:
        weights = [layer.weight for layer in layers]
        shared.weight.copy_(torch.stack(weights).mean(0) if mean else weights[0])
        for adapter, (b, a) in zip(made, corrections(weights, shared.weight, rank), strict=True):
            if b.any():
                adapter.B.copy_(b)
                adapter.A.copy_(a)
    return made


def relax(model: nn.Module, plan: Sequence[int], rank: int, *, mean: bool = False, fill=True) -> nn.Module:
    """Join the matrices of each group of layers, a correction of so many ranks for each layer, in place.

    For a trained model. mean: what is shared is the group's mean, in place of its first layer's. Groups of
    one layer stay as they are. Noted for hub.save; returns the model. fill=False: shapes alone, for a
    folder's weights. UserError as for `share`, for a rank over that of a matrix, for matrices with a bias.
    """
    check(model, plan, "block")
    blocks, made = model.blocks, {}
    for layers in (group for group in members(plan).values() if len(group) > 1):
        for name in [name for name, m in blocks[layers[0]].named_modules() if type(m) is nn.Linear]:
            olds = [blocks[i].get_submodule(name) for i in layers]
            demand(len(set(olds)) == len(olds), "these layers share already: relax comes before that")
            demand(all(old.bias is None for old in olds), f"{name} has a bias: only matrices can be joined")
            made |= dict(zip(olds, joined(olds, rank, mean, fill), strict=True))
    demand(made, f"the plan {tuple(plan)} joins no layers: put at least two into a group")
    swap(model, nn.Linear, made.__getitem__, lambda name: model.get_submodule(name) in made)
    return hub.mark(model, BY, technique="relaxed", plan=[int(group) for group in plan], rank=rank)
