"""Trainings: what is left of a model learns on, with its zeros in place; or it is pruned while it learns."""

from dataclasses import dataclass

import torch

from common.device import dtype_for, seed_all
from common.errors import demand
from common.recipe import TrainConfig
from common.training import train
from phase01_foundation.project03_pretrain.objectives import CausalLM

from .magnitude import Gradual, hold, matrices, settle


@dataclass(frozen=True)
class Plan:
    """A training, the same for all that is compared. UserError if it makes no sense."""

    steps: int = 144
    """Updates."""
    learning_rate: float = 1e-3
    """Highest size of an update; it warms up over a twentieth of the run, and falls to a twentieth."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 256
    """Tokens of a row."""
    seed: int = 0
    """Of the order of the text."""

    def __post_init__(self):
        least = min(self.steps, self.batch_size, self.context)
        demand(least >= 1, "steps, batch_size and context must be at least 1")

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size * self.context

    def train_config(self, device):
        precision = "bf16" if dtype_for(device) == torch.bfloat16 else "fp32"
        return TrainConfig(steps=self.steps, learning_rate=self.learning_rate, warmup=self.steps // 20,
                           min_learning_rate=self.learning_rate / 20, weight_decay=0.0, beta2=0.95,
                           precision=precision, log_every=max(1, self.steps // 100), eval_every=self.steps,
                           save_every=self.steps)  # fmt: skip

    def batches(self, ids):
        """batch_at(i) -> (inputs, targets), each (rows, context): a pure function of i. ids: (n,)."""
        last = len(ids) - self.context
        demand(last > 0, f"a context of {self.context} is longer than the text: shorten it")

        def batch_at(i):
            draw = torch.Generator().manual_seed(1_000_003 * self.seed + i)
            starts = torch.randint(last, (self.batch_size, 1), generator=draw).to(ids.device)
            rows = ids[starts + torch.arange(self.context + 1, device=ids.device)]
            return rows[:, :-1], rows[:, 1:]

        return batch_at


def zeros_of(model):
    """{name: mask} of the matrices that have zeros."""
    masks = {name: matrix.weight.detach() != 0 for name, matrix in matrices(model).items()}
    return {name: mask for name, mask in masks.items() if not mask.all()}


def fit(objective, model, ids, plan, folder, *, resume=False, say=lambda line: None):
    """Train an objective as the plan says; returns the history. The model is left in eval mode."""
    seed_all(plan.seed)
    objective.train()
    device = next(model.parameters()).device
    history = train(objective, plan.batches(ids.to(device)), plan.train_config(device), folder=folder,
                    resume=resume, say=say)  # fmt: skip
    model.eval()
    return history


def recover(model, ids, plan, folder, **how):
    """Train what is left of a model, in place; what is 0 stays 0. Returns the history."""
    hold(model, zeros_of(model))
    history = fit(CausalLM(model), model, ids, plan, folder, **how)
    settle(model)
    return history


def gradual(model, ids, plan, folder, sparsity, **how):
    """Prune a model in place while it learns, over the first two thirds of the plan; returns the history."""
    last = max(1, 2 * plan.steps // 3)
    objective = Gradual(CausalLM(model), model, sparsity, last, every=max(1, plan.steps // 50))
    history = fit(objective, model, ids, plan, folder, **how)
    settle(model)
    return history
