"""Where gradients lie beside float16's range, how the scale moves, and what the history of amax holds."""

import numpy as np
import torch
from torch import nn

from common import plots

from ._lab import fit, side
from .fp8 import Fp8Linear
from .mixed_precision import LossScaler

SMALLEST, LARGEST = 2.0**-24, 65504.0  # of float16, above 0
LARGE = 1024  # times as many tokens in a batch


def sent_back(one, batch):
    """log2 of the magnitudes of the gradients that enter each product on the way back, zeros left out."""
    seen, layers = [], [module for module in one.objective.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_full_backward_hook(lambda m, dx, dy: seen.append(dy[0].abs().flatten()))
             for layer in layers]  # fmt: skip
    one.objective(batch).backward()
    for hook in hooks:
        hook.remove()
    one.optimizer.zero_grad()
    found = torch.cat(seen).cpu().double()
    return found[found > 0].log2().numpy()


def gradients(lab):
    """Gradients on their way back, beside what float16 holds; and after the loss is multiplied by 65,536."""
    one = side("fp32", lab.model())
    fit(one, lab.town, max(2, lab.config.steps // 2), 3e-3)
    batch = lab.town.batch(10**6)
    grads, bins = sent_back(one, batch), np.arange(-48, 17, 0.5)
    tokens, found = batch[0].numel(), {}
    fig, ((ax,),) = plots.figure(height=3.8)
    for name, factor in ((f"{tokens:,} tokens in a batch", 1.0), (f"{LARGE * tokens:,} tokens", 1 / LARGE),
                         ("the same, the loss times 65,536", 2.0**16 / LARGE)):  # fmt: skip
        moved = grads + np.log2(factor)
        ax.hist(moved, bins=bins, label=name, histtype="step", linewidth=1.6)
        lost, over = float((moved < -25).mean()), float((moved >= np.log2(65520)).mean())
        lab.say(f"  {name}: {lost:.1%} would be 0 in float16, {over:.1%} infinite")
        found |= {f"{name}, lost": lost, f"{name}, over": over}
    for edge, text in ((np.log2(SMALLEST), "smallest of float16"), (np.log2(LARGEST), "largest")):
        ax.axvline(edge, color=plots.INK, linewidth=1, linestyle=":")
        ax.annotate(text, (edge, 0.98), xycoords=("data", "axes fraction"), rotation=90, ha="right",
                    va="top", size=10, color=plots.QUIET)  # fmt: skip
    ax.set(xlabel="magnitude of a gradient, as a power of 2", ylabel="how many",
           ylim=(0, 1.45 * ax.get_ylim()[1]))  # fmt: skip
    plots.legend(ax, loc="upper right", bbox_to_anchor=(0.92, 1))
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
    """The largest magnitudes of one layer's three tensors, step by step, and what its scale was made for."""
    one = side("fp8", lab.model())
    layer = next(m for m in one.objective.modules() if isinstance(m, Fp8Linear))
    seen = {name: [] for name in ("x", "weight", "dy")}
    for step in range(lab.config.steps):
        before = {name: getattr(layer, f"amax_{name}").max().item() for name in seen}
        one.update(lab.town.batch(step))
        for name, rows in seen.items():
            now = getattr(layer, f"amax_{name}")[0].item()
            rows.append((now, before[name] or now))  # the first step has its own
    fig, axes = plots.figure(3, 1, height=6)
    found = {}
    for ax, (name, rows) in zip(axes.flat, seen.items(), strict=True):
        now, made_for = (np.array(column) for column in zip(*rows, strict=True))
        cut = now > (1.08 if name == "dy" else 1.04) * made_for  # beyond what rounds to the end anyway
        ax.plot(made_for, linewidth=1.4, color=plots.COLOURS[6], label="largest of the 16 steps before")
        ax.plot(now, linewidth=1, color=plots.COLOURS[0], label="this step")
        ax.plot(np.nonzero(cut)[0], now[cut], "v", color=plots.COLOURS[1], label="cut off")
        ax.set(ylabel=f"amax of {name}", yscale="log")
        found |= {f"{name}, cut": float(cut.mean()), f"{name}, worst": float((now / made_for).max())}
        lab.say(f"  {name}: cut off at {cut.mean():.0%} of the steps, at worst {(now / made_for).max():.2f} "
                "times too large")  # fmt: skip
    axes[-1][0].set(xlabel="update")
    plots.legend(axes[0][0], loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    lab.save(fig, "amax.png")
    return found
