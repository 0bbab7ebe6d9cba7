"""Layers that share almost everything: one matrix for a group, and a thin correction for each layer.

Before: layer_sharing.py made layers equal. New here: each layer keeps its own norms and, beside every shared
matrix, an adapter of rank r, project 5's LoRA, so that layers that were trained apart can be joined at little
loss:

    layer l:   W_l  ≈  W_shared + B_l A_l        W_shared: the group's mean;  B_l A_l: the nearest matrix of
                                                 rank r to what is left, W_l - W_shared

    r = 0: layer_sharing.share(…, mean=True), but for the norms      r = full: the model that it was, exactly

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
def corrections(weights: Sequence[Tensor], rank: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The matrices of one group, each (out, in) -> their mean (out, in), and for each of them (B, A).

    B (out, rank) and A (rank, in): mean + B A is as near to the layer's own matrix as that rank allows.
    """
    mean = torch.stack(list(weights)).mean(0)
    parts = [low_rank(weight - mean, rank) for weight in weights]
    return mean, [(left, right.T) for left, right in parts]


@torch.no_grad()
def joined(layers: Sequence[nn.Linear], rank: int, fill: bool) -> list[LoRALinear]:
    """One adapter for each of a group's linear layers, all around one and the same matrix."""
    shared = nn.Linear(layers[0].in_features, layers[0].out_features, bias=False, device="meta")
    shared.weight = nn.Parameter(torch.empty_like(layers[0].weight))
    made = [LoRALinear(shared, LoRAConfig(r=rank, alpha=rank)) for _ in layers]  # alpha / r: a scale of 1
    shared.requires_grad_(True)  # project 5 trains the adapter alone; here both learn
    if fill:
        mean, parts = corrections([layer.weight for layer in layers], rank)
        shared.weight.copy_(mean)
        for adapter, (b, a) in zip(made, parts, strict=True):
            adapter.B.copy_(b)
            adapter.A.copy_(a)
    return made


def relax(model: nn.Module, plan: Sequence[int], rank: int, *, fill: bool = True) -> nn.Module:
    """Join the matrices of each group of layers, a correction of so many ranks for each layer, in place.

    Of a trained model: it says nearly what it said. Groups of one layer stay as they are. Noted for hub.save;
    returns the model. fill=False: shapes alone, for a folder's weights. UserError as for `share`, for a rank
    over that of a matrix, and for matrices with a bias.
    """
    check(model, plan, "block")
    blocks, made = model.blocks, {}
    for layers in (group for group in members(plan).values() if len(group) > 1):
        for name in [name for name, m in blocks[layers[0]].named_modules() if type(m) is nn.Linear]:
            olds = [blocks[i].get_submodule(name) for i in layers]
            demand(len(set(olds)) == len(olds), "these layers share already: relax comes before that")
            demand(all(old.bias is None for old in olds), f"{name} has a bias: only matrices can be joined")
            made |= dict(zip(olds, joined(olds, rank, fill), strict=True))
    demand(made, f"the plan {tuple(plan)} joins no layers: put at least two into a group")
    swap(model, nn.Linear, made.__getitem__, lambda name: model.get_submodule(name) in made)
    return hub.mark(model, BY, technique="relaxed", plan=[int(group) for group in plan], rank=rank)
