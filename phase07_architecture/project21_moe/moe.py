"""Many feed-forward layers, few used for each token: capacity without computation.

Before: each block has one feed-forward, and every token passes through all of it. New here: E of them, of
which a token takes k. Seam: the surgery, `swap` of each SwiGLU.

    y = Σ weight_i · expert_i(x)   over the k experts that the router named (+ a shared one that all take)

Three ways to compute that, slowest and plainest first:

    masked             every expert, every token, times a weight that is mostly 0         E / k times the work
    loop               expert by expert: find its tokens, compute them, add them           E gathers and adds
    sorted_segments    all choices sorted by expert, once: the tokens of each lie together         two copies

How experts get into a model, and how that is trained: `surgery.py`.

Shazeer et al. 2017, 1701.06538. Capacity: Lepikhin et al. 2020, 2006.16668 (GShard). Sorted, dropless: Gale
et al. 2022, 2211.15841 (MegaBlocks). Shared expert: Dai et al. 2024, 2401.06066 (DeepSeekMoE).
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import demand
from common.exercise import exercise
from common.model import SwiGLU

from .router import Router, RouterConfig, load


@dataclass(frozen=True, kw_only=True)
class MoEConfig(RouterConfig):
    """A mixture in the place of a feed-forward. UserError if it makes no sense."""

    d_ff: int | None = None
    """Numbers inside an expert; None: k experts together have as many as the feed-forward that was there."""
    shared: int = 0
    """Numbers inside an expert that every token takes besides; 0: there is none."""
    capacity: float | None = None
    """In training an expert takes at most this times its even share, and the rest is dropped; None: all."""

    def __post_init__(self):
        super().__post_init__()
        demand(self.d_ff is None or self.d_ff >= 1, f"d_ff is {self.d_ff}: at least 1, or None")
        demand(self.shared >= 0, f"shared is {self.shared}: at least 1, or 0 for none")
        demand(self.capacity is None or 0 < self.capacity < math.inf, f"capacity is {self.capacity}: nobody "
               "would take a token; give a factor above 0, 1.25 say, or None to drop nothing")  # fmt: skip


# ---- plain ways, which are also the oracles ----------------------------------------------------------------


def masked(x, routing, experts):
    """x (N, C) -> (N, C): every expert computes every token, and most of it is multiplied by 0."""
    E = len(experts)
    weights = x.new_zeros(len(x), E + 1, dtype=routing.weights.dtype)
    weights = weights.scatter(1, routing.experts, routing.weights)  # (N, E + 1), the last for nobody
    return sum(weights[:, i, None] * expert(x) for i, expert in enumerate(experts))


@exercise
def loop(x, routing, experts):
    """x (N, C) -> (N, C): each expert computes the tokens that chose it, and no others.

    torch.where(routing.experts == i) gives two rows of numbers: which tokens chose expert i, and as which of
    their k choices, which is where its weight stands.
    """
    y = torch.zeros_like(x)
    for i, expert in enumerate(experts):
        rows, place = torch.where(routing.experts == i)
        part = routing.weights[rows, place, None] * expert(x[rows])  # (tokens of i, C)
        y = y.index_add(0, rows, part.to(y.dtype))
    return y


# ---- sorted segments ---------------------------------------------------------------------------------------


@exercise
def sort_by_expert(experts, E):
    """experts (N, k), E = nobody -> (order (N k,), inverse (N k,), counts (E,)), all int64.

    Choice c is token c // k's. order: the choices expert by expert, those of nobody last; within an expert as
    they came. inverse: where in that order each choice went. counts: how many each expert has.
    """
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return order, inverse, load(experts, E)


class Rows(torch.autograd.Function):
    """x (M, C), index (R,), back (R,) -> x[index] (R, C), each row of x taken R / M times.

    `back` is the same as seen from x: where in the result row 0 went, all its R / M places; then row 1, …
    So the way back is a copy of rows as well, and a sum; torch's own adds up row by row.
    """

    @staticmethod
    def forward(ctx, x, index, back):
        ctx.save_for_backward(back)
        ctx.rows = len(x)
        return x[index]

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy (R, C) -> the gradient of x (M, C), and None for index and back. M is ctx.rows.

        A row of x that was taken twice gets the sum of what comes back from both places.
        """
        (back,) = ctx.saved_tensors
        taken = len(back) // max(1, ctx.rows)
        return dy[back].view(ctx.rows, taken, dy.size(1)).sum(1), None, None


def segments(h, counts, experts):
    """h (R, C), expert by expert, counts (E,) -> (R, C): what each expert makes of its rows.

    Rows beyond those that are counted are nobody's, and come out as zeros. Without gradients an expert that
    has no row is not called.
    """
    counts = counts.tolist()
    dropped = len(h) - sum(counts)
    *parts, _ = h.split([*counts, dropped])
    call = [len(part) or torch.is_grad_enabled() for part in parts]
    y = torch.cat([expert(part) if c else part for expert, part, c in zip(experts, parts, call, strict=True)])
    return F.pad(y, (0, 0, 0, dropped)) if dropped else y  # to pad by nothing would be a copy


@exercise
def sorted_segments(x, routing, experts, compute=segments):
    """x (N, C) -> (N, C): sort the choices by expert, compute each expert's stretch, sort back, weigh, sum.

    compute(h (N k, C), counts (E,), experts) -> (N k, C). The rows come and go through Rows.apply. How many
    experts there are say the scores: `experts` may be those of one process among several.
    """
    N, k = routing.experts.shape
    order, inverse, counts = sort_by_expert(routing.experts, routing.scores.size(1))
    h = Rows.apply(x, order // k, inverse)  # (N k, C): a token's row for each of its choices
    y = Rows.apply(compute(h, counts, experts), inverse, order)  # (N k, C), token by token again
    return (y.view(N, k, x.size(1)) * routing.weights[..., None]).sum(1)


# ---- capacity ----------------------------------------------------------------------------------------------


def room(N, config):
    """How many choices an expert takes of N tokens: its even share times the factor, rounded up."""
    return math.ceil(config.capacity * N * config.k / config.experts)


@exercise
def drop(experts, room, E):
    """experts (N, k) -> the same, with E (nobody) wherever an expert already had `room` choices.

    First choices go before second ones, and among those the earlier token before the later.
    """
    N, k = experts.shape
    asked = F.one_hot(experts.T.flatten(), E)  # (k N, E): all first choices, then all second ones
    before = ((asked.cumsum(0) - asked) * asked).sum(-1)  # (k N,): who asked the same expert earlier
    return experts.masked_fill((before >= room).view(k, N).T, E)


# ---- the layer ---------------------------------------------------------------------------------------------


def feed_forward(d_model, d_ff):
    """The core's feed-forward at these sizes."""
    return SwiGLU(SimpleNamespace(d_model=d_model, d_ff=d_ff))


class MoE(nn.Module):
    """x (..., C) -> (..., C). `run`: how it is computed, `masked`, `loop` or `sorted_segments`: same result.

    Capacity holds in training alone: in use a token's result must not depend on who else is in the batch.
    """

    def __init__(self, d_model, d_ff, config, run=None):
        super().__init__()
        self.config, self.run = config, run or sorted_segments
        self.router = Router(d_model, config)
        self.experts = nn.ModuleList(feed_forward(d_model, d_ff) for _ in range(config.experts))
        self.shared = feed_forward(d_model, config.shared) if config.shared else None

    def forward(self, x):
        rows = x.reshape(-1, x.size(-1))  # (N, C)
        routing = self.router(rows)
        if self.config.capacity and self.training:
            kept = drop(routing.experts, room(len(rows), self.config), self.config.experts)
            routing = routing._replace(experts=kept)
        y = self.run(rows, routing, self.experts)
        if self.shared is not None:
            y = y + self.shared(rows)
        return y.to(x.dtype).view_as(x)


def layers(model):
    """The mixtures of a model. UserError where there is none."""
    found = [module for module in model.modules() if isinstance(module, MoE)]
    demand(found, "this model has no experts: apply(model, config) or upcycle(model, config) puts them in")
    return found
