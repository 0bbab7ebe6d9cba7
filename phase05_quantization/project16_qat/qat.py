"""A model that trains as coarse as it will be: put on, train, freeze, export to whole numbers.

    apply(model, QATConfig(bits=3))     every matrix of the blocks rounds itself, forwards; names stay
    …train it as any model…             (with inputs="static": calibrate(model, batches) before)
    freeze(model)                       steps and ranges no longer move
    export(model)                       codes for weights; the same logits to the last bit

Seam: the surgery, through `swap`. Why the same to the last bit, though floating point rounds everywhere:

- *float inputs*: both models multiply the same float32 matrix, made from the same codes and steps by the same
  function (project 14's `dequantize`), with the same product (`F.linear`).
- *coded inputs*: here the model that trains multiplies codes as floats and the exported one as integers, two
  different products. But float32 holds every whole number up to 2^24, so a sum of codes times codes that
  stays below that is exact, in whatever order it is added up. The steps come after the sum, in one order.

Jacob et al. 2018, 1712.05877 (integer products); Esser et al. 2020, 1902.08153; Liu et al. 2023, 2305.17888.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from common import hub
from common.errors import demand
from common.exercise import exercise
from common.model import swap
from phase05_quantization.project14_ptq import rtn
from phase05_quantization.project14_ptq.rtn import Grid, QuantLinear, grid_of, in_blocks, qmax, quantize

from .fake_quant import TINY, FakeQuantize, Kept, Observer, first_step, gradient_scale, to_codes

INPUT_BITS = 8
EXACT = 2**24  # up to here float32 holds every whole number


@dataclass(frozen=True)
class QATConfig:
    """How the matrices are rounded. UserError if it makes no sense."""

    bits: int = 4
    """Bits of a weight: 2, 3, 4 or 8."""
    group: int | None = None
    """Inputs of a row that share a step; None: all of them."""
    steps: Literal["learned", "observed"] = "learned"
    """learned: parameters (LSQ). observed: the largest weight of each group, anew in every forward pass."""
    inputs: Literal["float", "dynamic", "static"] = "float"
    """float: as they are. dynamic: 8 bits, a step for each token. static: 8 bits, one step, observed."""
    momentum: float | None = None
    """Of the observers of static inputs; None: the widest range seen."""

    def __post_init__(self):
        qmax(self.bits)  # refuses others
        demand(self.group is None or self.group >= 1, f"group is {self.group}: at least 1, or None")
        for name, known in (("steps", ("learned", "observed")), ("inputs", ("float", "dynamic", "static"))):
            value = getattr(self, name)
            demand(value in known, f"{name} is {value!r}: choose {', '.join(known)}")


# ---- products of codes -------------------------------------------------------------------------------------


@exercise
def code_product(x, w, x_step, w_step, multiply):
    """x (N, in) and w (out, in) codes, x_step (N, 1) or (), w_step (out, groups) -> (N, out), float32.

    Group by group: multiply(x's part (N, n), the transpose of w's (n, out)) sums codes times codes and
    nothing else; then that sum is multiplied by the group's steps. The inputs' step comes last of all.
    """
    size, total = x.size(1) // w_step.size(1), 0
    for g, (a, b) in enumerate(zip(x.split(size, 1), w.split(size, 1), strict=True)):
        total = total + multiply(a, b.T) * w_step[:, g]  # (N, out)
    return total * x_step


def by_float(a, b):
    """Codes as floats (N, n) @ (n, out): differentiable."""
    return a @ b


def by_integer(a, b):
    """Codes as int8 (N, n) @ (n, out): summed as 32-bit integers, then float32, which loses nothing."""
    if a.is_cuda:  # pragma: no cover - gpu: there the product wants more than 16 rows
        rows = max(32, -(-len(a) // 8) * 8)
        return torch._int_mm(F.pad(a, (0, 0, 0, rows - len(a))), b)[: len(a)].float()
    return torch._int_mm(a.contiguous(), b).float()


@exercise
def token_steps(x):
    """x (N, in) -> (N, 1): the step with which each row's largest number just fits. No gradient."""
    return (x.detach().abs().amax(1, keepdim=True) / qmax(INPUT_BITS)).clamp(min=TINY)


# ---- the layer that trains ---------------------------------------------------------------------------------


class FakeQuantLinear(nn.Module):
    """nn.Linear (..., in) -> (..., out) whose weight is rounded in every forward pass; and inputs, if asked.

    Weight and bias stay the Parameters that they were. UserError where groups do not divide the inputs, or
    sums of codes could pass 2^24.
    """

    def __init__(self, old, config):
        super().__init__()
        self.weight, self.bias, self.config = old.weight, old.bias, config
        self.held = None  # the steps, once frozen
        rtn.demand_finite(old.weight.detach())
        groups = rtn.groups_of(old.weight.detach(), config.group)  # (out, groups, n)
        n, most = groups.size(-1), groups.size(-1) * (qmax(config.bits) + 1) * (qmax(INPUT_BITS) + 1)
        demand(config.inputs == "float" or most <= EXACT, f"{n} products of 8-bit inputs and {config.bits}-"
               f"bit weights add up to {most:,}, more than the {EXACT:,} that float32 holds exactly: choose "
               "a smaller group")  # fmt: skip
        if config.steps == "learned":
            self.step = nn.Parameter(first_step(groups.flatten(0, 1), config.bits).view(groups.shape[:2]))
        self.damping = gradient_scale(n, config.bits)
        self.observer = Observer(config.momentum, INPUT_BITS) if config.inputs == "static" else None

    def steps(self):
        """The steps of the weight as they will be kept, (out, groups), float32."""
        if self.held is not None:
            return self.held
        if self.config.steps == "learned":
            return Kept.apply(self.step, self.damping)
        return grid_of(self.weight.detach(), self.config.bits, self.config.group).scale.float()

    def input_step(self, x):
        """x (N, in) -> (N, 1) or (). In training an observer looks first."""
        if self.observer is None:
            return token_steps(x)
        if self.training:
            self.observer.see(x.detach())
        return self.observer.step()

    def forward(self, x):
        steps, bits = self.steps(), self.config.bits
        if self.config.inputs == "float":
            return F.linear(x, FakeQuantize.apply(self.weight, steps, bits), self.bias)
        rows = x.reshape(-1, x.size(-1))  # (N, in)
        x_step = self.input_step(rows)
        codes = to_codes(rows, x_step, INPUT_BITS)
        groups = self.weight.unflatten(1, (steps.size(1), -1))  # (out, groups, n)
        weights = to_codes(groups, steps[..., None], bits).flatten(1)  # (out, in)
        y = code_product(codes, weights, x_step, steps, by_float).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def freeze(self):
        """Hold the steps as they are now. UserError where an observer has seen nothing."""
        if self.observer is not None:
            self.observer.freeze()
        self.held = self.steps().clone()


# ---- the layer that is left --------------------------------------------------------------------------------


class IntegerLinear(nn.Module):
    """Codes times codes, (..., in) -> (..., out): 8-bit inputs, weights as codes in a QuantLinear.

    `x_step` is () for static inputs; None: a step for each token, found when it comes.
    """

    def __init__(self, weight, x_step=None):
        super().__init__()
        self.weight = weight
        self.register_buffer("x_step", x_step)

    def forward(self, x):
        rows = x.reshape(-1, x.size(-1))  # (N, in)
        x_step = token_steps(rows) if self.x_step is None else self.x_step
        codes = to_codes(rows, x_step, INPUT_BITS).to(torch.int8)
        y = code_product(codes, self.weight.codes, x_step, self.weight.grid.scale.float(), by_integer)
        y = y.view(*x.shape[:-1], -1)
        return y if self.weight.bias is None else y + self.weight.bias


def whole(layer):
    """A FakeQuantLinear as codes: a QuantLinear, or an IntegerLinear around one. UserError before freeze."""
    demand(layer.held is not None, "the steps still move with the weights: freeze(model) first, then export")
    grid, config = Grid(layer.held.half(), None), layer.config
    codes = quantize(layer.weight.detach(), grid, config.bits)
    made = QuantLinear.from_codes(codes, grid, config.bits, layer.bias)
    if config.inputs == "float":
        return made
    return IntegerLinear(made, None if layer.observer is None else layer.observer.step())


# ---- a whole model -----------------------------------------------------------------------------------------


def apply(model, config):
    """Have the matrices of the blocks round themselves, in place; return the model."""
    return swap(model, nn.Linear, lambda old: FakeQuantLinear(old, config), in_blocks)


def layers(model):
    """The FakeQuantLinears of a model; UserError where there is none."""
    found = [module for module in model.modules() if isinstance(module, FakeQuantLinear)]
    demand(found, "this model rounds nothing: apply(model, config) comes first, and export comes once")
    return found


@torch.no_grad()
def calibrate(model, batches):
    """Show the observers some token batches, each (B, T), without training. UserError for an empty set."""
    modes, seen = [(module, module.training) for module in layers(model)], 0
    for module, _ in modes:
        module.train()
    for seen, tokens in enumerate(batches, 1):  # noqa: B007 - how many there were
        model(tokens)
    for module, mode in modes:
        module.training = mode
    demand(seen, "the calibration set is empty: give at least one batch of tokens")


def freeze(model):
    """Steps and ranges stay as they are from now on, in place; return the model. Weights may train on."""
    for layer in layers(model):
        layer.freeze()
    return model


def export(model):
    """Every FakeQuantLinear as codes, in place; return the model, noted for hub.save.

    UserError before freeze. With float inputs nothing of this project is left: it is a model of project 14,
    and whatever reads and serves those serves it. Else
    hub.load(folder, restore={"project16_qat": qat.restore}) reads it.
    """
    config = layers(model)[0].config
    swap(model, FakeQuantLinear, whole)
    if config.inputs == "float":
        return hub.mark(model, "project14_ptq", bits=config.bits, group=config.group)
    return hub.mark(model, "project16_qat", bits=config.bits, group=config.group, inputs=config.inputs)


def restore(model, bits, group, inputs):
    """The shapes of a folder so marked: integer layers, with codes that are still to be filled in."""

    def empty(old):
        static = inputs == "static"
        return IntegerLinear(QuantLinear.shaped(old, bits, group), torch.ones(()) if static else None)

    return swap(model, nn.Linear, empty, in_blocks)
