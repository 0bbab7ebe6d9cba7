"""Trainings: what is left of a model learns on, with its zeros in place; or it is pruned while it learns."""

from dataclasses import dataclass

from common.device import seed_all
from common.training import train
from phase01_foundation.project03_pretrain import town
from phase01_foundation.project03_pretrain.objectives import CausalLM

from .magnitude import Gradual, hold, matrices, settle


@dataclass(frozen=True)
class Plan(town.Plan):
    """A training, the same for all that is compared. UserError if it makes no sense."""

    steps: int = 144
    learning_rate: float = 1e-3
    batch_size: int = 4
    context: int = 256
    weight_decay: float = 0.0


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
