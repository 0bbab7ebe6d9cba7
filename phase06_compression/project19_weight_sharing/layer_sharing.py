"""Layers that share their weights: the same block, run more than once.

Before: tying.py shared one matrix between the two ends. New here: whole blocks, or their attention or feed-
forward alone. Which layers share is a *plan*, the group of each layer:

    adjacent(6, 1)   0 0 0 0 0 0     ALBERT: one block for all layers
    adjacent(6, 3)   0 0 1 1 2 2     neighbours; seen from three blocks: each at once repeated (MobileLLM-LS)
    cycle(6, 3)      0 1 2 0 1 2     all blocks, and then all again
    sandwich(6)      0 1 1 1 1 2     the first and the last layer have their own

Every use has a cache of its own, as its keys and values are its own: `model.blocks` keeps one entry for each
layer, and some of them are the same module. Parameters are saved; FLOPs are not: a layer that shares computes
what it computed before.

Seam: the surgery on `model.blocks`. ALBERT: Lan et al. 2020, 1909.11942. MobileLLM: Liu et al. 2024,
2402.14905. Cycles: Takase & Kiyono 2021, 2104.06022. Sandwich: Reid, Marrese-Taylor & Matsuo 2021,
2101.00234.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from common import hub
from common.errors import demand
from common.exercise import exercise

PARTS = ("block", "attn", "ffn")
BY = "project19_weight_sharing"


# ---- the naive version -------------------------------------------------------------------------------------


def unshared(model: nn.Module) -> nn.Module:
    """A copy with the same answers in which every layer has weights of its own: the naive version.

    Trained, its layers part. They stay one if each gets the sum of its group's gradients, which is what
    autograd gives a shared block by itself.
    """
    plain = copy.deepcopy(model)
    plain.blocks = nn.ModuleList(copy.deepcopy(block) for block in model.blocks)
    plain.surgery = [entry for entry in getattr(model, "surgery", []) if entry["by"] != BY]
    return plain


# ---- plans -------------------------------------------------------------------------------------------------


def check_plan(n_layer: int, groups: int) -> None:
    demand(1 <= groups <= n_layer, f"{n_layer} layers cannot be {groups} groups: choose 1 to {n_layer}")


@exercise
def adjacent(n_layer: int, groups: int) -> tuple[int, ...]:
    """The plan in which neighbours share, in groups as even as can be: adjacent(6, 3) is (0, 0, 1, 1, 2, 2).

    Layer i belongs to group floor(i · groups / n_layer). UserError unless 1 <= groups <= n_layer.
    """
    check_plan(n_layer, groups)
    return tuple(i * groups // n_layer for i in range(n_layer))


def cycle(n_layer: int, groups: int) -> tuple[int, ...]:
    """The plan that runs through all groups and begins again: cycle(6, 3) is (0, 1, 2, 0, 1, 2)."""
    check_plan(n_layer, groups)
    return tuple(i % groups for i in range(n_layer))


def sandwich(n_layer: int) -> tuple[int, ...]:
    """All but the first and the last layer share: sandwich(6) is (0, 1, 1, 1, 1, 2)."""
    demand(n_layer >= 3, f"a sandwich has at least 3 layers, not {n_layer}")
    return (0, *[1] * (n_layer - 2), 2)


def members(plan: Sequence[int]) -> dict[int, list[int]]:
    """{group: its layers, in order}."""
    found: dict[int, list[int]] = {}
    for layer, group in enumerate(plan):
        found.setdefault(group, []).append(layer)
    return found


def check(model: nn.Module, plan: Sequence[int], part: str) -> None:
    """UserError where the plan is not one of this model, or would join what is unlike in shape."""
    demand(part in PARTS, f"part is {part!r}: choose {', '.join(PARTS)}")
    n = len(model.blocks)
    demand(len(plan) == n, f"a plan of {len(plan)} layers for a model of {n}: name the group of every layer")
    for layers in members(plan).values():
        shapes = [{name: tuple(p.shape) for name, p in the(model.blocks[i], part).named_parameters()}
                  for i in layers]  # fmt: skip
        for layer, other in zip(layers, shapes, strict=True):
            apart = [name for name in {**shapes[0], **other} if shapes[0].get(name) != other.get(name)]
            demand(not apart, f"layers {layers[0]} and {layer} are unlike in {apart[:1]} and cannot be one "
                   "module: give a layer that was cut a group of its own")  # fmt: skip


def the(block: nn.Module, part: str) -> nn.Module:
    """The module of a block that is shared: itself, or its attention or feed-forward."""
    return block if part == "block" else getattr(block, part)


# ---- sharing -----------------------------------------------------------------------------------------------


@exercise
def average(modules: Sequence[nn.Module]) -> None:
    """Write the mean of the modules' parameters, name by name, into the first of them, in place.

    As numbers the mean is nearest to all of them at once. As a layer it may be near to none: layers that were
    trained apart keep the same thing in different rows.
    """
    first, *_ = modules
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            parameter.copy_(torch.stack([module.get_parameter(name) for module in modules]).mean(0))


@exercise
def join(model: nn.Module, plan: Sequence[int], part: str) -> None:
    """Put the first layer's module of each group into all its layers, in place: itself, not a copy.

    part "block": model.blocks[i] is exchanged. "attn", "ffn": that child of it; norms stay apart.
    """
    leaders: dict[int, nn.Module] = {}
    for layer, group in enumerate(plan):
        leader = leaders.setdefault(group, model.blocks[layer])
        if part == "block":
            model.blocks[layer] = leader
        else:
            setattr(model.blocks[layer], part, getattr(leader, part))


def share(model: nn.Module, plan: Sequence[int], part: str = "block", *, mean: bool = False) -> nn.Module:
    """Have the layers of each group share a module, in place, before any optimiser is made. Returns it.

    mean: the shared weights are the group's mean, in place of its first layer's. Noted for hub.save: the
    folder holds each weight once, and hub.load(folder, restore={"project19_weight_sharing": folders.restore})
    shares again. UserError for a plan of another length, and for layers of unlike shape.
    """
    check(model, plan, part)
    if mean:
        for layers in members(plan).values():
            average([the(model.blocks[i], part) for i in layers])
    join(model, plan, part)
    return hub.mark(model, BY, technique="layers", plan=[int(group) for group in plan], part=part)


@exercise
def repeat(model: nn.Module, times: int) -> nn.Module:
    """Run every block `times` times in a row, in place: n blocks become n · times layers, no weight more.

    (b0, b1) twice is (b0, b0, b1, b1). config.n_layer counts layers, not blocks. Returns the model.
    """
    model.blocks = nn.ModuleList(block for block in model.blocks for _ in range(times))
    model.config = replace(model.config, n_layer=len(model.blocks))
    return model


def repeated(model: nn.Module, times: int) -> nn.Module:
    """`repeat`, noted for hub.save: more depth, and as many times the FLOPs, for no parameter. Returns the
    model. Of one that shares nothing yet; for training anew, call init_weights() after it."""
    demand(times >= 1, f"blocks cannot run {times} times: choose 1 or more")
    n = len(dict.fromkeys(model.blocks))
    demand(n == len(model.blocks), "some of these blocks are shared already: repeat comes first")
    return share(repeat(model, times), adjacent(n * times, n))
