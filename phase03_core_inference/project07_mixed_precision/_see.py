"""Where gradients lie beside float16's range, how the scale moves, and what the history of amax holds."""

import numpy as np
import torch

from common import plots

from ._lab import fit, side
from .fp8 import Fp8Linear
from .mixed_precision import LossScaler

SMALLEST, LARGEST = 2.0**-24, 65504.0  # of float16, above 0


def gradients(lab):
    """The magnitudes of all gradients, before and after the loss is multiplied, beside what float16 holds."""
    one = side("fp32", lab.model())
    fit(one, lab.town, max(2, lab.config.steps // 4), 3e-3)
    one.optimizer.zero_grad()
    one.objective(lab.town.batch(10**6)).backward()
    grads = torch.cat([p.grad.abs().flatten() for p in one.parameters]).cpu().double()
    grads, bins = grads[grads > 0].log2().numpy(), np.arange(-48, 17)
    fig, ((ax,),) = plots.figure(height=3.8)
    found = {}
    for name, factor in (("as they are", 1.0), ("times 65,536", 2.0**16)):
        moved = grads + np.log2(factor)
        ax.hist(moved, bins=bins, alpha=0.6, label=name)
        lost, over = float((moved < -25).mean()), float((moved >= np.log2(65520)).mean())
        lab.say(f"  {name}: {lost:.2%} would be 0 in float16, {over:.2%} infinite")
        found |= {f"{name}, lost": lost, f"{name}, over": over}
    for edge, text in ((np.log2(SMALLEST), "smallest of float16"), (np.log2(LARGEST), "largest")):
        ax.axvline(edge, color=plots.INK, linewidth=1, linestyle=":")
        ax.annotate(text, (edge, 0.97), xycoords=("data", "axes fraction"), rotation=90, va="top", ha="right",
                    size=10, color=plots.QUIET)  # fmt: skip
    ax.set(xlabel="magnitude of a gradient, as a power of 2", ylabel="how many")
    plots.legend(ax, loc="upper left")
    lab.save(fig, "gradients.png")
    return found


def scale(lab):
    """The scale over a training in float16: it begins too high on purpose, backs off, and tries again."""
    interval = max(2, lab.config.steps // 8)
    one = side("fp16", lab.model(), LossScaler(2.0**24, interval=interval))
    fit(one, lab.town, lab.config.steps, 3e-3)
    steps = np.arange(len(one.scales))
    before = np.array([2.0**24, *one.scales[:-1]])
    fell = steps[np.array(one.scales) < before]
    fig, ((ax,),) = plots.figure(height=3.8)
    ax.step(steps, one.scales, where="post", label="scale")
    ax.plot(fell, before[fell], "v", color=plots.COLOURS[1], label="overflow: the update is skipped")
    ax.set_yscale("log", base=2)
    ax.set(xlabel="update", ylabel="scale of the loss")
    plots.legend(ax)
    lab.save(fig, "scale.png")
    lab.say(f"  {one.skipped} of {len(steps)} updates skipped; the scale ends at {one.scales[-1]:,.0f}")
    return {"skipped": one.skipped, "last": one.scales[-1]}


def amax(lab):
    """The largest magnitudes of one layer's three tensors, step by step, and the largest in the history."""
    one = side("fp8", lab.model())
    layer = next(m for m in one.objective.modules() if isinstance(m, Fp8Linear))
    seen = {name: [] for name in layer.histories}
    for step in range(lab.config.steps):
        one.update(lab.town.batch(step))
        for name, history in layer.histories.items():
            seen[name].append((history.values[-1], max(history.values)))
    fig, axes = plots.figure(3, 1, height=6)
    for ax, (name, rows) in zip(axes.flat, seen.items(), strict=True):
        now, window = zip(*rows, strict=True)
        ax.plot(now, linewidth=1, label="this step")
        ax.plot(window, linewidth=1.4, label="largest in the history")
        ax.set(ylabel=f"amax of {name}", yscale="log")
    axes[-1][0].set(xlabel="update")
    plots.legend(axes[0][0])
    lab.save(fig, "amax.png")
    cut = {name: float(np.mean([rows[i][0] > rows[i - 1][1] for i in range(1, len(rows))]))
           for name, rows in seen.items()}  # fmt: skip
    lab.say("  steps at which something was cut off: " + ", ".join(f"{n} {s:.0%}" for n, s in cut.items()))
    return {f"{name}, cut": share for name, share in cut.items()}
