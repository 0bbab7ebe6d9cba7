"""Who does the work: for each token a router names k of E experts, and says how much each of them counts.

Before: `two_experts.py`, one gate and two lines. New here: many experts, k of them for a token, and what
keeps a router from sending everything to a few: those are trained more, get better, and are chosen even more.

    logits = W x                   (N, E)      one row of W for each expert
    scores = softmax(logits)       (N, E)      or sigmoid, each expert for itself (DeepSeek-V3)
    experts = the k largest        (N, k)      a choice: it has no gradient
    weights = their scores         (N, k)      divided by their sum: these carry the gradient to W

Three remedies: noise on the logits (who is nearly chosen gets a turn); a loss that is least when the load is
even; a bias on the choice, moved by a fixed step after each update, with no gradient at all.

Noise: Shazeer et al. 2017, 1701.06538. Balance loss: Fedus et al. 2021, 2101.03961. z-loss: Zoph et al. 2022,
2202.08906. Bias: Wang et al. 2024, 2408.15664. Renormalised top 2: Jiang et al. 2024, 2401.04088 (Mixtral).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import demand
from common.exercise import exercise


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """How tokens find their experts. UserError if it makes no sense."""

    experts: int = 8
    """Experts in a layer, E."""
    k: int = 2
    """Experts of a token."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: experts compete. sigmoid: each is scored for itself."""
    renormalise: bool = True
    """Divide the weights of a token by their sum, so that they add up to 1."""
    scale: float = 1.0
    """What the weights are multiplied by; k: k narrow experts count whole, as slices of a wide one do."""
    noise: bool = False
    """Learned noise on the logits, in training."""
    aux: float = 0.01
    """Weight of the balance loss; 0: none."""
    z: float = 0.001
    """Weight of the z-loss; 0: none."""
    rate: float = 0.0
    """By how much a bias moves with each update; 0: no bias."""

    def __post_init__(self):
        demand(self.experts >= 1, f"experts is {self.experts}: there must be at least 1")
        demand(1 <= self.k <= self.experts, f"k is {self.k} of {self.experts} experts: a token takes at "
               "least 1 and at most all of them")  # fmt: skip
        demand(self.score in ("softmax", "sigmoid"), f"score is {self.score!r}: choose softmax or sigmoid")
        demand(0 < self.scale < float("inf"), f"scale is {self.scale}: it must be above 0, and finite")
        for name in ("aux", "z", "rate"):
            value = getattr(self, name)
            demand(0 <= value < float("inf"), f"{name} is {value}: it must be at least 0, and finite")


class Routing(NamedTuple):
    """What a router says of N tokens. An expert with the number E is nobody: that choice was dropped."""

    experts: torch.Tensor  # (N, k) int64
    weights: torch.Tensor  # (N, k)
    scores: torch.Tensor  # (N, E)
    logits: torch.Tensor  # (N, E)


# ---- the choice -------------------------------------------------------------------------------------------


@exercise
def choose(scores, k, bias=None, renormalise=True):
    """scores (N, E), all above 0, bias (E,) or None -> experts (N, k), best first; their weights (N, k).

    The bias counts in who is chosen and nowhere else: weights are scores, as they were. renormalise: those of
    a token are divided by their sum.
    """
    experts = (scores if bias is None else scores + bias).topk(k, dim=-1).indices  # (N, k)
    weights = scores.gather(-1, experts)
    return experts, weights / weights.sum(-1, keepdim=True).clamp(min=1e-20) if renormalise else weights


@exercise
def noisy(logits, spread):
    """logits, spread (N, E) -> (N, E): a standard normal number of its own on each logit, times the softplus
    of its spread. How much noise an expert gets is learned, token by token."""
    return logits + torch.randn_like(logits) * F.softplus(spread)


# ---- what keeps the load even ------------------------------------------------------------------------------


def load(experts, E):
    """How many choices fell on each expert: experts (N, k) -> (E,) int64. Dropped ones are not counted."""
    flat = experts.flatten()  # bincount would have the processor wait for a GPU
    return flat.new_zeros(E + 1).scatter_add(0, flat, torch.ones_like(flat))[:E]


@exercise
def balance_loss(scores, experts):
    """scores (N, E), experts (N, k) -> scalar: E · Σ share_i · mean_i. 1 at an even load; E where all is one.

    share_i: of all N k choices, those that fell on expert i: a count, without a gradient. mean_i: the mean
    over the tokens of expert i's part in a token's scores; through it an expert with a large share is made
    smaller. No tokens: 0.
    """
    N, E = scores.shape
    share = load(experts, E) / max(1, experts.numel())  # (E,)
    mean = (scores / scores.sum(-1, keepdim=True)).sum(0) / max(1, N)  # (E,)
    return E * (share * mean).sum()


@exercise
def z_loss(logits):
    """logits (N, E) -> scalar: the mean square of each token's log Σ e^logit. No tokens: 0.

    softmax does not see a constant on all logits, so nothing else holds them where float numbers are dense.
    """
    return logits.logsumexp(-1).square().sum() / max(1, len(logits))


@exercise
def nudge(bias, counts, rate):
    """bias (E,), counts (E,): the last load -> the bias after one step of size `rate`.

    Up for who had less than the mean, down for who had more, and not at all for who had just that.
    """
    counts = counts.to(bias.dtype)
    return bias + rate * (counts.mean() - counts).sign()


def cv(counts):
    """The load's standard deviation over its mean: 0 where all experts have the same; √(E - 1) where one has
    all. No load: 0."""
    counts = counts.double()
    return (counts.std(unbiased=False) / counts.mean().clamp(min=1e-12)).item()


def evenness(counts):
    """The entropy of the load over its largest value, ln E: 1 where it is even, 0 where one has all."""
    share = counts.double() / counts.sum().clamp(min=1)
    return (torch.special.entr(share).sum() / max(torch.tensor(len(counts)).log().item(), 1e-12)).item()


# ---- the module --------------------------------------------------------------------------------------------


class Router(nn.Module):
    """x (N, C) -> Routing. Computed in float32 at least: rounded logits are other choices.

    What it said last stays in `routing`, for the losses; the load of the last training forward in `load`.
    """

    def __init__(self, d_model, config):
        super().__init__()
        self.config, self.routing = config, None
        self.gate = nn.Linear(d_model, config.experts, bias=False)
        self.spread = nn.Linear(d_model, config.experts, bias=False) if config.noise else None
        self.register_buffer("bias", torch.zeros(config.experts))
        self.register_buffer("load", torch.zeros(config.experts))

    def forward(self, x):
        config, wide = self.config, x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(wide, self.gate.weight.to(wide.dtype))  # (N, E)
            tried = logits
            if self.spread is not None and self.training:
                tried = noisy(logits, F.linear(wide, self.spread.weight.to(wide.dtype)))
            scores = tried.softmax(-1) if config.score == "softmax" else tried.sigmoid()
        experts, weights = choose(scores, config.k, self.bias if config.rate else None, config.renormalise)
        if self.training:
            self.load.copy_(load(experts, config.experts))
        self.routing = Routing(experts, config.scale * weights, scores, logits)
        return self.routing

    def loss(self):
        """What the last forward adds to the loss: balance and z, by their weights, in nats."""
        config, said = self.config, self.routing
        total = said.logits.new_zeros(())
        if config.aux:
            total = total + config.aux * balance_loss(said.scores, said.experts)
        return total + config.z * z_loss(said.logits) if config.z else total

    @torch.no_grad()
    def settle(self):
        """Move the bias by the load of the last training forward, once."""
        if self.config.rate:
            self.bias.copy_(nudge(self.bias, self.load, self.config.rate))
            self.load.zero_()

    def __getstate__(self):
        """A copy of the module starts without what was said last, whose graph cannot be copied."""
        return {**self.__dict__, "routing": None}
