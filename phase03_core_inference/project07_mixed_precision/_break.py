"""float16 without its scaler, norm and softmax in float16, and a scale that is too high and stays there."""

import numpy as np
import torch

from common import plots

from ._lab import Unscaled, fit, side
from .mixed_precision import LossScaler

TINY = 2.0**-18  # of a loss: 512 tokens become 134 million
HIGH = 2.0**40  # a scale


class Static(LossScaler):
    """A scale that never moves."""

    def update(self):
        """Nothing."""


def curves(lab, sides, name, unit=1.0):
    """Train every side on the same batches, draw the losses, over `unit`; {label: last loss, and so on}."""
    fig, ((ax,),) = plots.figure(height=3.8)
    found = {}
    for label, one in sides.items():
        start = one.parameters[0].detach().clone()
        fit(one, lab.town, lab.config.steps, 3e-3)
        losses = np.array(one.losses) / unit
        ax.plot(losses, label=f"{label}: {one.skipped} of {len(losses)} updates skipped", linewidth=1.3)
        moved = (one.parameters[0] - start).norm().item()
        found |= {label: float(losses[-1]), f"{label}, skipped": one.skipped, f"{label}, moved": moved}
        lab.say(f"  {label}: from {losses[0]:.4f} to {losses[-1]:.4f} nats a byte, {one.skipped} of "
                f"{len(losses)} updates skipped, the embedding has moved by {moved:.3g}")  # fmt: skip
    ax.set(xlabel="update", ylabel="loss, nats a byte")
    plots.legend(ax)
    lab.save(fig, name)
    return found


def tiny_loss(one):
    """A side whose loss is divided: gradients as small as those of a batch 262,144 times as large."""
    whole = one.objective.forward
    one.objective.forward = lambda batch: whole(batch) * TINY
    return one


def unscaled(lab):
    """Gradients as small as a large batch's, in float16, with the scaler and without."""
    sides = {"scaled": tiny_loss(side("fp16", lab.model(), LossScaler(2.0**16))),
             "not scaled": tiny_loss(side("fp16", lab.model(), Unscaled()))}  # fmt: skip
    return curves(lab, sides, "unscaled.png", TINY)


def static(lab):
    """A scale too high that stays: every gradient overflows, no update is made. A dynamic one comes down."""
    sides = {"dynamic": side("fp16", lab.model(), LossScaler(HIGH)),
             "fixed": side("fp16", lab.model(), Static(HIGH))}  # fmt: skip
    return curves(lab, sides, "static.png")


def norm_error(size, dtype):
    """How far a norm whose squares are in `dtype` is off, of numbers of this size: a share of the answer."""
    x = size * torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    low = x.to(dtype)
    got = (low * low.square().mean(-1, keepdim=True).rsqrt()).double()
    want = x.double() * x.double().square().mean(-1, keepdim=True).rsqrt()
    return ((got - want).norm() / want.norm()).item()


def softmax_sum(keys, dtype):
    """What the weights of a softmax over so many equal scores add up to, if their sum is made in `dtype`."""
    total = torch.zeros((), dtype=dtype)
    for _ in range(keys):
        total = total + torch.ones((), dtype=dtype)
    return keys / total.double().item()


def norms(lab):
    """A norm and a softmax that compute in float16: wrong from a size on, and nothing says so."""
    sizes, lengths = [1, 3, 10, 30, 50, 70, 100, 300, 1000], [512, 1024, 2048, 4096, 8192]
    fig, ((left, right),) = plots.figure(1, 2, width=10, height=3.8)
    found = {}
    for dtype, colour in ((torch.float16, plots.COLOURS[1]), (torch.float32, plots.COLOURS[0])):
        name = str(dtype).removeprefix("torch.")
        off = [norm_error(size, dtype) for size in sizes]
        sums = [softmax_sum(length, dtype) for length in lengths]
        left.plot(sizes, np.maximum(off, 1e-8), "o-", color=colour, label=name)
        right.plot(lengths, sums, "o-", color=colour, label=name)
        found |= {f"norm, {name}": off[-1], f"softmax, {name}": sums[-1]}
        lab.say(f"  {name}: a norm of numbers around 1,000 is {off[-1]:.1%} off; the weights of 8,192 equal "
                f"keys add up to {sums[-1]:.2f}")  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="size of the numbers", ylabel="error of the norm")
    right.set(xlabel="keys", ylabel="sum of a softmax's weights", ylim=(0, None))
    plots.legend(left)
    lab.save(fig, "norms.png")
    return found
