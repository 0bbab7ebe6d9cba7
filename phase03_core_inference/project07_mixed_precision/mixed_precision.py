"""Half the bits for the work, all of them where something is summed up: training and inference in 16 bits.

Before: one model and one optimiser, everything in float32 (project 3). Sixteen bits are half the memory and,
where there are units for them, several times the products. What they cannot do:

    float32     8 bits of exponent, 23 of fraction      1e-38 .. 3e38     steps of 1e-7
    bfloat16    8                    7                  1e-38 .. 3e38     steps of 0.8 %
    float16     5                   10                  6e-8  .. 65504    steps of 0.1 %

New, one for each weakness:
- a *policy*: products in 16 bits, sums of squares and the loss in 32. Put on through `swap`;
- *master weights*: an update is a thousandth of a weight, less than a step of bfloat16: add it up in float32;
- a *loss scaler*, for float16: gradients below 6e-8 would be 0, so the loss is multiplied before the backward
  pass and the gradients are divided after it; the factor is found by trying.

Micikevicius et al. 2018, 1710.03740; Kalamkar et al. 2019, 1905.12322 (bfloat16).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_

from common.errors import demand
from common.exercise import exercise
from common.model import RMSNorm, swap

# ---- what runs in which type -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """`work`: what products take and give. `safe`: what norms compute in. UserError for no floating type."""

    work: torch.dtype = torch.bfloat16
    safe: torch.dtype = torch.float32

    def __post_init__(self):
        for name, dtype in (("work", self.work), ("safe", self.safe)):
            demand(dtype.is_floating_point and dtype.itemsize > 1,
                   f"{name} is {dtype}: choose torch.bfloat16, torch.float16 or torch.float32")  # fmt: skip


class MixedLinear(nn.Module):
    """A product in the work type. The weight stays as it is: cast anew each time, so its gradient is whole.

    `old` keeps its Parameters: names in checkpoints, ties and optimisers do not notice.
    """

    def __init__(self, old, policy):
        super().__init__()
        self.weight, self.bias, self.policy = old.weight, old.bias, policy

    @exercise
    def forward(self, x):
        """x (..., in), of any floating type -> (..., out) in the work type. Casts are differentiable."""
        work = self.policy.work
        bias = None if self.bias is None else self.bias.to(work)
        return F.linear(x.to(work), self.weight.to(work), bias)  # (..., out)


class MixedNorm(nn.Module):
    """RMSNorm whose squares are summed in the safe type. 256 squared is beyond float16 already."""

    def __init__(self, old, policy):
        super().__init__()
        self.weight, self.eps, self.policy = old.weight, old.eps, policy

    @exercise
    def forward(self, x):
        """x (..., C) -> (..., C) in the work type: computed in the safe type, then rounded, once."""
        safe = self.policy.safe
        y = F.rms_norm(x.to(safe), self.weight.shape, self.weight.to(safe), self.eps)
        return y.to(self.policy.work)  # cast here: three products read it, and autocast casts it three times


def mixed(model, policy):
    """Put the policy on a model, in place; return it. The stream between the blocks keeps its own type.

    Nothing else is needed: q, k and v come out of products, attention keeps the type of what it is given and
    sums in float32 inside, and a sum of float32 and 16 bits is float32.
    """
    swap(model, nn.Linear, lambda old: MixedLinear(old, policy))
    return swap(model, RMSNorm, lambda old: MixedNorm(old, policy))


def for_inference(model, policy):
    """`mixed`, with the weights themselves in the work type, in place: half the bytes, and nothing to cast.

    For a model that is no longer trained: without master weights it would stand still.
    """
    return mixed(model.requires_grad_(False), policy).to(policy.work)


# ---- weights that can take a small step --------------------------------------------------------------------


class Masters:
    """A float32 copy of every trained parameter of a model, whose own go over to `dtype`, in place.

    The optimiser is given `parameters()`. After each backward pass `collect`, after each step `hand_out`.
    """

    def __init__(self, model, dtype):
        self.low = [p for p in model.parameters() if p.requires_grad]  # a tie is one of them
        demand(self.low, "the model has no parameter to train: all are frozen")
        self.high = [nn.Parameter(p.detach().float().clone()) for p in self.low]  # before anything is rounded
        for p in self.low:
            p.data = p.data.to(dtype)

    def parameters(self):
        """The float32 copies, in the order of the model's trained parameters."""
        return self.high

    @exercise
    def collect(self):
        """The model's gradients become the masters', in float32; the model's are gone.

        A parameter without a gradient (None) gives its master none.
        """
        for low, high in zip(self.low, self.high, strict=True):
            high.grad = None if low.grad is None else low.grad.float()
            low.grad = None

    @exercise
    @torch.no_grad()
    def hand_out(self):
        """The model's parameters become the masters, rounded to their own type. The masters are not."""
        for low, high in zip(self.low, self.high, strict=True):
            low.copy_(high)


# ---- gradients that are not lost ---------------------------------------------------------------------------


class LossScaler:
    """A factor for the loss: halved when a gradient overflows, doubled after `interval` steps without.

    `scale` is a power of two if the settings are, so that multiplying by it changes no digit.
    """

    def __init__(self, scale=2.0**16, growth=2.0, backoff=0.5, interval=2000):
        demand(0 < scale < math.inf, f"scale is {scale}: it must be over 0, and finite")
        demand(growth > 1, f"growth is {growth}: it must be over 1")
        demand(0 < backoff < 1, f"backoff is {backoff}: it must be between 0 and 1")
        demand(interval >= 1, f"interval is {interval}: it must be at least 1 step")
        self.scale, self.growth, self.backoff, self.interval = scale, growth, backoff, interval
        self.good = 0  # steps since the scale last changed, none of which overflowed
        self.overflow = False  # in the gradients that were unscaled last

    def scaled(self, loss):
        """The loss to call backward on."""
        return loss * self.scale

    @exercise
    @torch.no_grad()
    def unscale(self, parameters):
        """Divide the gradients by the scale, in place; note in `overflow` whether one is inf or NaN.

        They have to be float32 already: what float16 cannot hold would be lost again. None is passed over.
        """
        grads = [p.grad for p in parameters if p.grad is not None]
        for grad in grads:
            grad.mul_(1 / self.scale)
        self.overflow = not all(grad.isfinite().all() for grad in grads)

    @exercise
    def step(self, optimizer):
        """Let the optimiser step, unless a gradient overflowed: its moments would never forget a NaN.

        Returns whether it did.
        """
        if not self.overflow:
            optimizer.step()
        return not self.overflow

    @exercise
    def update(self):
        """The scale of the next step. Once for each step, after it.

        Overflow: smaller by `backoff`, and the count of good steps begins anew. Otherwise, at the
        `interval`th good step in a row, larger by `growth`, unless that is more than float32 holds; the
        count begins anew.
        """
        self.good = 0 if self.overflow else self.good + 1
        if self.overflow:
            self.scale *= self.backoff
        elif self.good == self.interval:
            larger, self.good = self.scale * self.growth, 0
            self.scale = larger if larger <= torch.finfo(torch.float32).max else self.scale


# ---- one update --------------------------------------------------------------------------------------------


@exercise
def update(objective, batch, optimizer, scaler, parameters, masters=None, clip=1.0):
    """One update of the weights: -> (loss, as it is and not scaled; whether the step was made).

    objective(batch) -> loss. `parameters` (a list) are what the optimiser holds: the masters', where there
    are masters. Their gradients are clipped to a norm of `clip`, in units of the loss as it is.
    """
    optimizer.zero_grad()
    loss = objective(batch)
    scaler.scaled(loss).backward()
    if masters is not None:
        masters.collect()
    scaler.unscale(parameters)
    clip_grad_norm_(parameters, clip)
    made = scaler.step(optimizer)
    scaler.update()
    if masters is not None:
        masters.hand_out()
    return loss.detach(), made
