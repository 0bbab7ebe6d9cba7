"""What the scripts share: the plan of a training with learned steps, and models rounded without one."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from common.errors import demand
from common.model import swap
from common.recipe import TrainConfig, parameter_groups
from phase01_foundation.project03_pretrain import town
from phase05_quantization.project14_ptq import gptq, rtn

from . import qat


@dataclass(frozen=True)
class Plan(town.Plan):
    """A training, the same for the rounded model and its control. UserError if it makes no sense."""

    steps: int = 300
    learning_rate: float = 5e-4
    batch_size: int = 4
    context: int = 256
    weight_decay: float = 0.0
    step_rate: float = 3e-3
    """By which share of itself a learned step moves at most in an update."""

    def __post_init__(self):
        super().__post_init__()
        demand(self.step_rate >= 0, f"step_rate is {self.step_rate}: it must be at least 0")

    def optimizer(self, objective: nn.Module, config: TrainConfig):
        """AdamW; learned steps at a rate of their own, since AdamW moves all numbers equally far."""
        steps = [p for name, p in objective.named_parameters() if name.endswith(".step")]
        others = set(objective.parameters()) - set(steps)
        groups = [{**group, "params": [p for p in group["params"] if p in others]}
                  for group in parameter_groups(objective, config.weight_decay)]  # fmt: skip
        if steps:
            size = torch.cat([p.detach().flatten() for p in steps]).abs().mean().item()
            groups.append({"params": steps, "lr": self.step_rate * size, "weight_decay": 0.0})
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=fused)


def rounded(model, bits, group=None):
    """{grid: a copy of the model, its blocks rounded once, to nearest}: both of project 14's grids.

    What counts as its damage is that of the better one. At 2 bits absmax alone would be a straw man.
    """
    grids = {"absmax": True, "zero point": False}
    return {name: rtn.apply(copy.deepcopy(model), bits, group, how) for name, how in grids.items()}


def dense(model):
    """A copy with the weights that codes stand for, where there are codes: the same answers, sooner."""
    model = copy.deepcopy(model)
    if any(type(layer) is qat.FakeQuantLinear for layer in model.modules()):
        qat.export(qat.freeze(model))
    if any(type(layer) is rtn.QuantLinear for layer in model.modules()):
        swap(model, rtn.QuantLinear, unrounded)
    return model


def unrounded(layer):
    """A QuantLinear as a Linear of the same rounded numbers."""
    made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    made.weight, made.bias = nn.Parameter(layer.whole()), layer.bias
    return made


def by_gptq(model, text, plan, bits, group=None):
    """A copy rounded by GPTQ, which looks at 32 rows of the text that others are trained on."""
    rows = text.batches(replace(plan, batch_size=32))(0)[0]
    return gptq.apply(copy.deepcopy(model), list(rows.split(1)), bits, group)


def recovery(ptq, fp, trained, control):
    """The share of PTQ's damage that is gone: 1 - (trained - control) / (ptq - fp), all in nats a token.

    Both differences are what rounding costs; `control` was trained in float as long as `trained` was.
    """
    return 1 - (trained - control) / (ptq - fp)
