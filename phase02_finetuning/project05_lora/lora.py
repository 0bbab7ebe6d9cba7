"""LoRA: leave the matrices of a model alone, and train two thin ones beside each.

Before: project 4 trained every weight, so AdamW kept two more numbers for each, and every tuned copy is a
whole model. New here: the change of a matrix W (out, in) is a product B A of rank r, and only A (r, in) and
B (out, r) are trained. It is an operation on a finished model, through `swap`.

    x ──┬──► W (frozen) ──────────────┬──► y        y = x Wᵀ + scale · x Aᵀ Bᵀ
        └──► A (r, in) ──► B (out, r) ┘             (..., in) -> (..., out)

LoRA: Hu et al. 2021, 2106.09685. rsLoRA, another scale: Kalajdzievski 2023, 2312.03732. DoRA, a length for
each row that is learned apart from its direction: Liu et al. 2024, 2402.09353. Names and start of the weights
are those of `peft`, so that adapters travel in both directions (adapter.py).
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from common.model import swap

MATRICES = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")  # of a block: "all-linear"


@dataclass(frozen=True)
class LoRAConfig:
    """What to train. UserError if it makes no sense."""

    r: int = 8
    """Rank: columns of B and rows of A."""
    alpha: float = 16.0
    """How strongly B A counts; the scale is alpha / r."""
    dropout: float = 0.0
    """Share of the adapter's inputs that is zeroed in training."""
    rslora: bool = False
    """The scale is alpha / √r instead."""
    dora: bool = False
    """Also learn the length of each row of W + B A."""
    targets: tuple[str, ...] = MATRICES
    """Which matrices, by the last part of their name; "head" may be among them."""

    def __post_init__(self):
        demand(self.r >= 1, f"the rank is {self.r}: it must be at least 1")
        demand(0 < self.alpha < math.inf, f"alpha is {self.alpha}: it must be over 0, and finite")
        demand(0 <= self.dropout < 1, f"dropout must lie in [0, 1), not {self.dropout}")
        strange = set(self.targets) - {*MATRICES, "head"}
        demand(self.targets and not strange, f"targets are some of {MATRICES} and head, not {self.targets}")


@exercise
def scaling(config: LoRAConfig) -> float:
    """By how much B A is multiplied: alpha / r, or with rslora alpha / √r.

    Divided by r, a larger rank does not mean larger steps at first, so that a learning rate found for one
    rank serves for others; but the gradients of large ranks then shrink. √r is what keeps them as they are.
    """
    return config.alpha / (math.sqrt(config.r) if config.rslora else config.r)


class LoRALinear(nn.Module):
    """A frozen linear layer `base`, (..., in) -> (..., out), and an adapter beside it.

    base: an nn.Linear, or anything with in_features, out_features, bias and a readable weight (out, in). A
    starts random and B at zero: at first nothing is changed. The adapter is kept in float32.
    """

    def __init__(self, base: nn.Module, config: LoRAConfig):
        super().__init__()
        most = min(base.in_features, base.out_features)
        demand(config.r <= most, f"rank {config.r} for a matrix of rank {most} at most: take a smaller one")
        self.base, self.config, self.scale = base.requires_grad_(False), config, scaling(config)
        self.dropout, self.kept = nn.Dropout(config.dropout), ()
        device = next(t.device for t in (*base.parameters(), *base.buffers()))
        self.A = nn.Parameter(torch.empty(config.r, base.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(base.out_features, config.r, device=device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.magnitude = nn.Parameter(self.lengths()) if config.dora else None  # (out,)

    @exercise
    def delta(self) -> Tensor:
        """What the adapter adds to the matrix: scale · B A, (out, in)."""
        return self.scale * (self.B @ self.A)

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """The length of each row of W + scale · B A, (out,). DoRA treats it as a constant: no gradient."""
        return (self.base.weight + self.delta()).norm(dim=1)

    def full(self) -> Tensor:
        """The naive version: the whole matrix that this layer stands for, (out, in), in the adapter's dtype.

        W + delta; with DoRA each row is then given the length that was learned: magnitude / lengths.
        """
        whole = self.base.weight + self.delta()
        return whole if self.magnitude is None else whole * (self.magnitude / self.lengths())[:, None]

    @exercise
    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out): F.linear(x, self.full(), base.bias), without ever making (out, in).

        The adapter reads self.dropout(x). With DoRA a row's share of y is multiplied by magnitude / lengths;
        the bias is not. While the adapter is merged (self.kept), base says it all.
        """
        if self.kept:
            return self.base(x)
        rows = x.reshape(-1, x.size(-1))  # (N, in)
        low = F.linear(self.dropout(rows), self.A.to(x.dtype)) * self.scale  # (N, r): scaled while it is thin
        y = self.base(rows)  # (N, out)
        # the product adds itself to y: two passes fewer over (N, out), the widest thing here
        y = y.addmm_(low.to(y.dtype), self.B.T.to(y.dtype)).view(*x.shape[:-1], -1)
        if self.magnitude is None:
            return y
        stretch = (self.magnitude / self.lengths()).to(y.dtype)  # (out,)
        bias = self.base.bias
        return y * stretch if bias is None else (y - bias) * stretch + bias

    @torch.no_grad()
    def merge(self) -> None:
        """Put the adapter into the matrix: the layer then costs what base costs. UserError if it cannot be.

        What a low rank added is small. Rounded to the dtype of W it loses digits; rounded to 4-bit codes it
        would be lost almost whole, so that is refused: `merged` gives a layer in floating point.
        """
        demand(not self.kept, "this adapter is merged already: unmerge it first")
        coded = f"a {type(self.base).__name__} keeps codes, and B A would be rounded away with them"
        demand(isinstance(self.base, nn.Linear), f"{coded}: make a plain model with lora.merge(model)")
        self.kept = (self.base.weight,)  # in a tuple, so that it is no parameter of this module
        self.base.weight = nn.Parameter(self.full().to(self.kept[0].dtype), requires_grad=False)

    def unmerge(self) -> None:
        """Put the old matrix back, bit for bit (to subtract B A again would leave rounding errors)."""
        demand(self.kept, "this adapter is not merged")
        (self.base.weight,), self.kept = self.kept, ()

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain nn.Linear that gives what this layer gives, in the dtype of W."""
        bias, weight = self.base.bias, self.base.weight
        whole = (weight if self.kept else self.full()).to(weight.dtype)
        plain = nn.Linear(*whole.shape[::-1], bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(whole), bias
        return plain


def apply(model: nn.Module, config: LoRAConfig, *, kind=nn.Linear, where=None) -> nn.Module:
    """Freeze the model and put an adapter on each layer of class `kind` that config.targets names.

    where: a test of the dotted name instead of config.targets. UserError where nothing fits. A head that is
    tied to the embedding may have one: the table stays frozen, and the embedding reads it as it was.
    """
    where = where or (lambda name: name.rpartition(".")[2] in config.targets)
    return swap(model.requires_grad_(False), kind, lambda old: LoRALinear(old, config), where)


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """{dotted name: layer} of all layers with an adapter; UserError where there is none."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}
    demand(found, "this model has no adapter: lora.apply puts one on")
    return found


def merge(model: nn.Module) -> nn.Module:
    """Every adapter into its matrix, and plain layers again: a model like any other, for hub.save.

    A tie cannot survive an adapter on the head: its matrix is no longer the embedding's.
    """
    swap(model, LoRALinear, LoRALinear.merged)
    if model.config.tie_embeddings and model.head.weight is not model.embed.weight:
        model.config = replace(model.config, tie_embeddings=False)
    return model.requires_grad_(True)
