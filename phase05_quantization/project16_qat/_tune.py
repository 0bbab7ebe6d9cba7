"""What the scripts share: TinyTown as batches and as a judge, a training, a model rounded without one."""

import copy
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import nn

from common.device import dtype_for, seed_all
from common.errors import demand
from common.model import swap
from common.recipe import TrainConfig, parameter_groups
from common.training import train
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase05_quantization.project14_ptq import gptq, rtn

from . import qat

LEARN, HELD = 1, 2  # streams of TinyTown's pages; the base model was trained on stream 0


@dataclass(frozen=True)
class Plan:
    """A training, the same for the rounded model and its control. UserError if it makes no sense."""

    steps: int = 300
    """Updates."""
    learning_rate: float = 5e-4
    """Highest size of an update; it warms up over a twentieth of the run, and falls to a twentieth."""
    step_rate: float = 3e-3
    """By which share of itself a learned step moves at most in an update."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 256
    """Tokens of a row."""
    seed: int = 0
    """Of the order of the text."""

    def __post_init__(self):
        demand(min(self.steps, self.batch_size, self.context) >= 1,
               "steps, batch_size and context must be at least 1")  # fmt: skip
        demand(self.step_rate >= 0, f"step_rate is {self.step_rate}: it must be at least 0")

    def train_config(self, device, every=0):
        """The settings of the loop; an evaluation every so many updates, 0: at both ends."""
        precision = "bf16" if dtype_for(device) == torch.bfloat16 else "fp32"
        return TrainConfig(steps=self.steps, learning_rate=self.learning_rate, warmup=self.steps // 20,
                           min_learning_rate=self.learning_rate / 20, weight_decay=0.0, beta2=0.95,
                           precision=precision, log_every=max(1, self.steps // 100),
                           eval_every=every or self.steps, save_every=self.steps)  # fmt: skip

    def optimizer(self, objective: nn.Module, config: TrainConfig):
        """AdamW; learned steps at a rate of their own, since AdamW moves all numbers equally far."""
        steps = {p for name, p in objective.named_parameters() if name.endswith(".step")}
        groups = [{**group, "params": [p for p in group["params"] if p not in steps]}
                  for group in parameter_groups(objective, config.weight_decay)]  # fmt: skip
        if steps:
            size = torch.cat([p.detach().flatten() for p in steps]).abs().mean().item()
            groups.append({"params": list(steps), "lr": self.step_rate * size, "weight_decay": 0.0})
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=fused)


class Town:
    """Pages of TinyTown as ids: one stream to train on, another to judge by."""

    def __init__(self, tokenizer, tokens, judged, device):
        self.tokenizer, self.device = tokenizer, device
        self.learn, self.held = (self.ids(*part).to(device) for part in ((LEARN, tokens), (HELD, judged)))

    def ids(self, stream, n):
        """The first n ids of a stream, an end behind each page, (n,)."""
        end, pages = probe.end_id(self.tokenizer), TinyTown().pages(stream)
        every = (i for page in pages for i in [*self.tokenizer.encode(page), end])
        return torch.tensor(list(islice(every, n)))

    def batches(self, plan):
        """batch_at(i) -> (inputs, targets), each (rows, context): a pure function of i."""
        last = len(self.learn) - plan.context
        demand(last > 0, f"a context of {plan.context} is longer than the text: shorten it")

        def batch_at(i):
            draw = torch.Generator().manual_seed(1_000_003 * plan.seed + i)
            starts = torch.randint(last, (plan.batch_size, 1), generator=draw).to(self.device)
            windows = self.learn[starts + torch.arange(plan.context + 1, device=self.device)]
            return windows[:, :-1], windows[:, 1:]

        return batch_at

    def loss(self, model, context):
        """Nats a token of pages that were never trained on."""
        windows = self.held.unfold(0, context + 1, context)
        return probe.surprise(model, ((part[:, :-1], part[:, 1:]) for part in windows.split(32)))["loss"]

    def knows(self, model, most):
        """The share of held-out sentences about the town that the model ends rightly, of so many."""
        rows = list(islice(TinyTown().questions("held-out", "knowledge", "cloze"), most))
        texts = probe.complete(model, self.tokenizer, [row["prompt"] for row in rows])
        return probe.exact(rows, texts)


def fit(model, town, plan, folder, *, every=0, on_eval=None, resume=False, say=lambda line: None):
    """Train a model in place, as the plan says; returns the history."""
    seed_all(plan.seed)
    model.train()
    return train(CausalLM(model), town.batches(plan), plan.train_config(town.device, every), folder=folder,
                 evaluate=lambda: {"val_loss": town.loss(model, plan.context)}, on_eval=on_eval,
                 optimizer=plan.optimizer, resume=resume, say=say)  # fmt: skip


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


def by_gptq(model, town, plan, bits, group=None):
    """A copy rounded by GPTQ, which looks at 32 rows of the text that others are trained on."""
    rows = town.batches(replace(plan, batch_size=32))(0)[0]
    return gptq.apply(copy.deepcopy(model), list(rows.split(1)), bits, group)


def recovery(ptq, fp, trained, control):
    """The share of PTQ's damage that is gone: 1 - (trained - control) / (ptq - fp), all in nats a token.

    Both differences are what rounding costs; `control` was trained in float as long as `trained` was.
    """
    return 1 - (trained - control) / (ptq - fp)
