"""A rounding with its true slope, inputs whose step depends on the neighbours, a rate that is too high."""

import copy

import torch
import torch.nn.functional as F

from common import plots

from . import qat
from .fake_quant import TINY
from .qat import FakeQuantLinear, qmax

RATES = (1, 10, 100)  # times the usual learning rate


class Honest(FakeQuantLinear):
    """Rounds, and says backwards what is true: the slope of round is 0."""

    def forward(self, x):
        steps, most = self.steps().detach(), qmax(self.config.bits)
        groups = self.weight.unflatten(1, (steps.size(1), -1)) / steps[..., None]  # (out, groups, n)
        weight = groups.round().clamp(-most - 1, most) * steps[..., None]
        return F.linear(x, weight.flatten(1), self.bias)


class Neighbours(FakeQuantLinear):
    """Inputs in 8 bits with one step for the whole batch, as it comes; also when the model is used."""

    def input_step(self, x):
        return (x.detach().abs().max() / qmax(qat.INPUT_BITS)).clamp(min=TINY)


def dressed(kind, bits, **settings):
    """A `dress` for the lab's trainings: rounds with another layer."""

    def dress(model):
        for layer in qat.layers(qat.apply(model, qat.QATConfig(bits, **settings))):
            layer.__class__ = kind
        return model

    return dress


def moved(model, base):
    """By how much the matrices of the blocks have moved, as a share of their length."""
    pairs = [(p, dict(base.named_parameters())[name]) for name, p in model.named_parameters()
             if name.startswith("blocks.") and name.endswith("weight") and p.dim() == 2]  # fmt: skip
    change = sum((p - q).square().sum() for p, q in pairs) / sum(q.square().sum() for _, q in pairs)
    return change.sqrt().item()


def zero(lab):
    """Without the straight-through estimator: the same training, with the slope that round really has."""
    sides = {"straight through": lab.coarse(3, steps="observed"),
             "true slope": dressed(Honest, 3, steps="observed")}  # fmt: skip
    found, lines = {}, []
    for name, dress in sides.items():
        model, history = lab.trained(dress)
        updates, losses = history.series("loss")
        lines.append(losses)
        share, loss = moved(model, lab.base), lab.loss(model)
        lab.say(f"  {name}: {loss:.4f} nats on unseen pages; the matrices moved by {share:.2%}")
        found |= {f"{name}, loss": loss, f"{name}, moved": share}
    fig, ((ax,),) = plots.figure(height=3.8)
    ax.plot(updates, [true - through for through, true in zip(*lines, strict=True)], linewidth=1.2)
    plots.level(ax, 0, "straight through")
    ax.set(xlabel="update", ylabel="nats a token more", title="Loss with the true slope, on the same batches")
    lab.save(fig, "zero.png")
    return found


@torch.no_grad()
def batch(lab):
    """One row alone and the same row beside others: with a step for the whole batch its logits change."""
    rows = lab.town.held[: 8 * lab.config.context].view(8, -1)
    inputs = {"a step for each token": lab.coarse(8, inputs="dynamic"),
              "observed, then frozen": lab.coarse(8, inputs="static"),
              "a step for the batch": dressed(Neighbours, 8, inputs="dynamic")}  # fmt: skip
    found = {}
    fig, ((ax,),) = plots.figure(height=3.8)
    for width, (name, dress) in zip((5, 2, 1), inputs.items(), strict=True):
        model = dress(copy.deepcopy(lab.base)).eval()
        qat.calibrate(model, [rows])
        qat.freeze(model)
        alone, beside = model(rows[:1]), model(rows)[:1]
        apart = (alone - beside).abs().amax(-1)[0].cpu()  # (T,)
        far = apart.max().item()
        ax.plot(apart, label=name, linewidth=width)
        other = (alone.argmax(-1) != beside.argmax(-1)).float().mean().item()
        lab.say(f"  {name}: logits up to {far:.2g} apart, {other:.1%} of the likeliest tokens differ")
        found |= {f"{name}, logits": far, f"{name}, tokens": other}
    ax.set(xlabel="token", ylabel="logits alone and beside others,\nat most apart")
    ax.set_ylim(top=1.5 * max(ax.get_ylim()[1], 1e-3))
    plots.legend(ax, loc="upper left")
    lab.save(fig, "batch.png")
    return found


def rate(lab):
    """A learning rate that is too high: weights jump over several codes at once, and never come to rest."""
    fig, ((left, right),) = plots.figure(1, 2, width=11, height=3.8)
    found = {}
    for times in RATES:
        flips, codes = [], []

        def watch(model, update, flips=flips, codes=codes):
            now = torch.cat([code_of(layer).flatten() for layer in qat.layers(model)])
            if codes:
                flips.append((update, (now != codes.pop()).float().mean().item()))
            codes.append(now)

        high = lab.config.learning_rate * times
        model, history = lab.trained(lab.coarse(3), learning_rate=high, on_eval=watch,
                                     every=max(1, lab.config.steps // 15))  # fmt: skip
        loss = lab.loss(model)
        left.plot(*history.series("loss"), label=f"{times} x", linewidth=1.2)
        right.plot(*zip(*flips, strict=True), "o-", label=f"{times} x", markersize=4)
        lab.say(f"  {times} x the rate: {loss:.4f} nats; {flips[-1][1]:.1%} of the codes changed at the end")
        found |= {f"{times} x, loss": loss, f"{times} x, flips": flips[-1][1]}
    left.set(xlabel="update", ylabel="loss, nats a token")
    right.set(xlabel="update", ylabel="codes changed since the last look")
    plots.legend(left)
    lab.save(fig, "rate.png")
    return found


@torch.no_grad()
def code_of(layer):
    """The codes that a layer rounds to now, int8."""
    return qat.quantize(layer.weight, qat.Grid(layer.steps(), None), layer.config.bits)
