"""One table at both ends: the matrix that reads tokens also scores them. And how to count what is shared.

Before: project 3 tied its base model by a setting. New here: what a tie is, what it saves, how it is lost.

    naive   tokens ──► embed (V, C) ──► blocks ──► x (C) ──► head (V, C) ──► logits      2 V C numbers
    tied    tokens ──► table (V, C) ──► blocks ──► x (C) ──► table (V, C) ──► logits       V C numbers

A tie is *one Parameter under two names*. Its gradient is the sum of what both ends send to it, the optimiser
moves it once, a file holds it once. Two Parameters of equal values are no tie (they part at the first
update), nor are two that look into one memory (each update is made twice).

Seam: the surgery. Press & Wolf 2017, 1608.05859; Inan, Khosravi & Socher 2017, 1611.01462.
"""

from dataclasses import replace

from torch import nn

from common.errors import demand
from common.exercise import exercise

# ---- the naive count ---------------------------------------------------------------------------------------


def count_names(model: nn.Module) -> int:
    """The naive count: the numbers under every name. What is shared counts once for each of its names."""
    return sum(p.numel() for _, p in model.named_parameters(remove_duplicate=False))


# ---- what is really there ----------------------------------------------------------------------------------


@exercise
def names(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """{Parameter: all its names, in the order of the model}; those that are shared have more than one.

    >>> names(tied)[tied.head.weight]
    ['embed.weight', 'head.weight']
    """
    found: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(parameter, []).append(name)
    return found


def count(model: nn.Module) -> int:
    """How many numbers the model has, each counted once: what a file and an optimiser hold."""
    return sum(p.numel() for p in names(model))


@exercise
def flops(model: nn.Module) -> int:
    """FLOPs of the matrices for one token, forwards: a multiply and an add for each weight at each *use*.

    A matrix that six layers share is used six times. Only nn.Linear counts: to look a token up is no product,
    and attention's own products depend on the length. `common.device.matmul_parameters` counts each matrix
    once, so that 6 N FLOPs a token, the usual estimate, is too low for a model that shares.
    """
    used = model.named_modules(remove_duplicate=False)
    return sum(2 * module.weight.numel() for _, module in used if isinstance(module, nn.Linear))


# ---- the tie -----------------------------------------------------------------------------------------------


@exercise
def tied_share(vocab_size: int, d_model: int, rest: int) -> float:
    """The share of an untied model's parameters that a tie saves: V C of 2 V C + rest, between 0 and ½.

    rest: all that is neither embedding nor head. GPT-2 small, V = 50,257: 0.237; with V = 10,000: 0.076.
    """
    return vocab_size * d_model / (2 * vocab_size * d_model + rest)


@exercise
def tie(model: nn.Module) -> nn.Module:
    """Let the head use the embedding's table, in place; its own matrix is gone. Returns the model.

    config.tie_embeddings says so from now on, so that a folder saved from it is tied again when loaded. To be
    done before any optimiser is made. UserError where the two have unlike shapes.
    """
    table, own = model.embed.weight, model.head.weight
    demand(table.shape == own.shape, f"a tie is one matrix, but the embedding is {tuple(table.shape)} and "
           f"the head {tuple(own.shape)}: give both one width, or tie first and factorise after")  # fmt: skip
    model.head.weight = table
    model.config = replace(model.config, tie_embeddings=True)
    return model


# ---- how it is lost ----------------------------------------------------------------------------------------


@exercise
def strays(model: nn.Module, optimizer) -> set[nn.Parameter]:
    """What the optimiser still holds though the model has it no more: a head from before the tie, say.

    It gets no gradient and so never moves, but it and its two moments stay in memory to the end.
    """
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    return held - set(names(model))


def twins(model: nn.Module) -> list[tuple[str, str]]:
    """Names of Parameters that are two and lie in one memory: `head.weight.data = embed.weight.data` makes
    such. Each is moved by its own moments, so the numbers move twice."""
    first: dict[tuple, str] = {}
    found = []
    for parameter, (name, *_) in names(model).items():
        place = parameter.device, parameter.data_ptr()
        if parameter.numel() and not parameter.is_meta and first.setdefault(place, name) != name:
            found.append((first[place], name))
    return found


def check(model: nn.Module, optimizer) -> None:
    """UserError unless the optimiser holds exactly what the model has to train, each once."""
    for one, other in twins(model):
        demand(False, f"{one} and {other} are two Parameters in one memory, and every update would be made "
               "twice: assign the Parameter itself, head.weight = embed.weight")  # fmt: skip
    lost = strays(model, optimizer)
    demand(not lost, f"the optimiser holds {len(lost)} parameters that the model no longer has: share first, "
           "then make the optimiser")  # fmt: skip
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for p, (name, *_) in names(model).items() if p.requires_grad and p not in held]
    demand(not missing, f"the optimiser does not hold {missing[:1]}: make it after the model is complete")
