"""Magnitude pruning: the smallest weights go, within a matrix, within the model, or bit by bit in training.

Before: project 14 gave each weight fewer bits. New here: many weights get none. A mask of the matrix's shape
says which stay (True); the others are 0. Which ones? A score says what each weight is worth, and then

    largest(scores, keep)        the `keep` largest of each row of scores stay

is all that there is to it: what differs between methods is the score, and who is compared with whom.

    by_layer      |w| among all weights of one matrix       each matrix loses the same share
    globally      |w| among all matrices of the model       matrices of small weights lose more
    n_of_m        among m neighbours of a row, n stay       2 of 4: what a GPU's tensor cores can skip

When: at once, or in training while the share of zeros rises and the weights that are left make up for it
(`Gradual`). A pruned weight is 0 in the product and gets no gradient. Seam: a Linear's class (`hold`).

LeCun, Denker, Solla 1990 (Optimal Brain Damage); Han et al. 2015, 1506.02626; Zhu & Gupta 2017, 1710.01878.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from phase05_quantization.project14_ptq.rtn import MATRICES

Masks = dict[str, Tensor]  # {dotted name of a Linear: bool (out, in), True = stays}


def demand_share(sparsity: float) -> None:
    """UserError unless a share of weights to remove lies between 0 and 1."""
    why = "0 would prune nothing, and 1 would leave no model"
    demand(0 < sparsity < 1, f"a sparsity of {sparsity} makes no sense: {why}; take a share such as 0.5")


def kept(n: int, sparsity: float) -> int:
    """How many of n stay where a share `sparsity` goes; UserError unless that lies between 0 and 1."""
    demand_share(sparsity)
    return n - round(n * sparsity)


def matrices(model) -> dict[str, nn.Linear]:
    """{dotted name: Linear} of what is pruned: the matrices of the blocks. Embedding and head stay."""
    found = {name: module for name, module in model.named_modules()
             if isinstance(module, nn.Linear) and name.rpartition(".")[2] in MATRICES}  # fmt: skip
    demand(found, "the model has no matrices to prune: they were quantised, or replaced")
    return found


# ---- which ----


@exercise
def largest(scores: Tensor, keep: int) -> Tensor:
    """scores (…, n) -> bool (…, n): True for the `keep` largest along the last axis, and no other.

    Exactly `keep` of them, also among equals, of which the first stay. UserError for scores that are NaN.
    """
    demand(not scores.isnan().any(), "some weights or inputs are NaN: prune a model whose run was sound")
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :keep]  # (…, keep)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)


@exercise
def by_layer(weights: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Of each matrix by itself the smallest |w| go: {name: w (out, in)} -> {name: mask (out, in)}."""
    return {name: largest(w.abs().flatten(), kept(w.numel(), sparsity)).view_as(w)
            for name, w in weights.items()}  # fmt: skip


@exercise
def globally(weights: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Of all matrices together the smallest |w| go: {name: w (out, in)} -> {name: mask (out, in)}."""
    flat = torch.cat([w.abs().flatten() for w in weights.values()])
    parts = largest(flat, kept(len(flat), sparsity)).split([w.numel() for w in weights.values()])
    return {name: part.view_as(w) for part, (name, w) in zip(parts, weights.items(), strict=True)}


@exercise
def n_of_m(scores: Tensor, n: int = 2, m: int = 4) -> Tensor:
    """scores (out, in) -> mask (out, in): of every m neighbours in a row the n largest stay.

    UserError unless 0 < n < m and m divides the rows.
    """
    demand(0 < n < m, f"{n} of {m} is no pattern: at least one weight stays, and at least one goes")
    demand(scores.size(-1) % m == 0, f"groups of {m} do not divide rows of {scores.size(-1)}")
    return largest(scores.unflatten(-1, (-1, m)), n).flatten(-2)


# ---- zeros that stay zeros ----


class Masked(nn.Linear):
    """A Linear with a mask: what is False in it counts as 0, and gets no gradient."""

    mask: Tensor  # bool (out, in), saved with the weights of a run

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def hold(model, masks: Masks):
    """Let these masks hold from now on, in training too; names in checkpoints stay. Returns the model.

    UserError where they are those of another model.
    """
    found = matrices(model)
    for name, mask in masks.items():
        fits = name in found and found[name].weight.shape == mask.shape
        demand(fits, f"the masks belong to another model: this one has no {name} of {tuple(mask.shape)}")
    for name, mask in masks.items():
        found[name].__class__ = Masked
        found[name].register_buffer("mask", mask.to(found[name].weight.device))
    return model


@torch.no_grad()
def settle(model):
    """Write the zeros into the weights and take the masks off; the model computes what it did."""
    for layer in [module for module in model.modules() if isinstance(module, Masked)]:
        layer.weight.mul_(layer.mask)
        del layer.mask
        layer.__class__ = nn.Linear
    return model


def apply(model, sparsity: float, choose: Callable[..., Masks] = by_layer):
    """Prune the matrices of a model at once by |w|: choose is by_layer or globally. Returns the model."""
    weights = {name: matrix.weight.detach() for name, matrix in matrices(model).items()}
    return settle(hold(model, choose(weights, sparsity)))


@torch.no_grad()
def sparsity_of(model) -> float:
    """The share of zeros among the weights of the blocks' matrices."""
    weights = [matrix.weight for matrix in matrices(model).values()]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


# ---- when ----


@exercise
def cubic(update: int, last: int, final: float, first: int = 0, start: float = 0.0) -> float:
    """The share of zeros at an update: `start` up to `first`, `final` from `last` on, and in between

        final + (start - final) (1 - (update - first) / (last - first))³

    so that much goes early, when there is much to spare, and little at the end. Zhu & Gupta, equation 1.
    """
    part = min(max((update - first) / (last - first), 0.0), 1.0)
    return final + (start - final) * (1 - part) ** 3


class Gradual(nn.Module):
    """An objective that prunes its model while it is trained: forward(batch) -> loss of another objective.

    At updates first, first + every, … and at `last` the masks are chosen anew, for `cubic`'s share. What was
    0 stays 0. It counts its forwards in training, so one is to be one update; the count and the masks are
    buffers, and an interrupted run goes on as it would have gone on.
    """

    def __init__(self, objective: nn.Module, model, final: float, last: int, first: int = 0, every: int = 10,
                 choose: Callable[..., Masks] = globally):  # fmt: skip
        super().__init__()
        demand_share(final)
        demand(0 <= first < last and every >= 1, f"updates {first} to {last}, every {every}: no schedule")
        self.objective, self.final, self.choose = objective, final, choose
        self.first, self.last, self.every = first, last, every
        self.register_buffer("update", torch.zeros((), dtype=torch.long))
        whole = {name: torch.ones_like(m.weight, dtype=torch.bool) for name, m in matrices(model).items()}
        self.layers = matrices(hold(model, whole))

    def forward(self, batch) -> Tensor:
        if self.training:
            t = int(self.update)
            if self.first <= t <= self.last and ((t - self.first) % self.every == 0 or t == self.last):
                self.prune(cubic(t, self.last, self.final, self.first))
            self.update += 1
        return self.objective(batch)

    @torch.no_grad()
    def prune(self, sparsity: float) -> None:
        """Choose the masks for a share of zeros, among what is left."""
        if sparsity > 0:
            weights = {name: layer.weight * layer.mask for name, layer in self.layers.items()}
            for name, mask in self.choose(weights, sparsity).items():
                self.layers[name].mask.copy_(mask)
