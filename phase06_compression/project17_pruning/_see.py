"""See: what zeros cost, which heads matter, what masks look like, when weights go, what gets faster."""

import copy
import math

import torch

from common import plots
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe

from . import _lab, _speed, _tune, magnitude, structured

NAMES = {"magnitude": "magnitude, by layer", "global": "magnitude, all layers", "wanda": "Wanda",
         "sparsegpt": "SparseGPT", "structured": "heads and neurons"}  # fmt: skip
COLOUR = dict(zip(_lab.METHODS, plots.COLOURS, strict=False))


def sparsity(lab):
    """Perplexity against the share of zeros, by each method, without any training."""
    found, base = {}, lab.perplexity(lab.base)
    fig, ((ax,),) = plots.figure(width=7.5)
    for name in _lab.METHODS:
        line = {}
        for share in lab.config.shares:
            line[share] = lab.perplexity(lab.pruned(name, share))
            found[f"{name}, {share:.0%}"] = line[share] / base
        ax.plot([100 * share for share in line], list(line.values()), "o-", color=COLOUR[name],
                label=NAMES[name])  # fmt: skip
        lab.say(f"  {NAMES[name]:22}" + "  ".join(f"{s:.0%}: {v:.3f}" for s, v in line.items()))
    plots.level(ax, base, "nothing removed")
    ax.set(xlabel="% of the blocks' weights removed", ylabel="perplexity", yscale="log",
           title="What zeros cost, no training afterwards")  # fmt: skip
    plain_ticks(ax, base, max(found.values()) * base)
    plots.legend(ax)
    lab.save(fig, "sparsity.png")
    return found


def plain_ticks(ax, low, high):
    """A logarithmic axis with plain numbers: doublings of the lowest."""
    n = max(1, math.ceil(math.log2(high / low)))
    ticks = [low * 2 ** (i * -(-n // 6)) for i in range(min(n, 6) + 1)]
    ax.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.yaxis.minorticks_off()


def heads(lab):
    """Which heads the loss minds: its slope by a gate on each, and what closing the gate really does."""
    table = structured.head_importance(lab.base, lab.batches)
    base, closed = lab.perplexity(lab.base, lab.config.few), torch.zeros_like(table)
    for i, block in enumerate(lab.base.blocks):
        attend = block.attn.attend
        for head in range(table.size(1)):
            gate = torch.ones(table.size(1))
            gate[head] = 0
            block.attn.attend = structured.gated(attend, gate)
            closed[i, head] = lab.perplexity(lab.base, lab.config.few) / base - 1
        block.attn.attend = attend
    fig, ((left, right),) = plots.figure(1, 2, width=12, height=0.5 * len(table) + 2)
    for ax, values, title in ((left, 1000 * table, "Slope of the loss by the head's gate, in thousandths"),
                              (right, 100 * closed, "Perplexity without it, + %")):  # fmt: skip
        plots.heatmap(ax, values, x=range(table.size(1)), y=range(len(table)), title=title)
        ax.set(xlabel="head", ylabel="layer")
        written(ax, values)
    lab.save(fig, "heads.png")
    pairs = torch.stack((ranks(table.flatten()), ranks(closed.flatten())))
    agree = torch.corrcoef(pairs)[0, 1].item()
    free = (closed < 0.01).float().mean().item()
    lab.say(f"  {free:.0%} of the heads can go alone for less than 1 % of perplexity; the dearest costs "
            f"{closed.max():+.0%}; rank correlation of slope and truth {agree:.2f}")  # fmt: skip
    return {"free": free, "dearest": closed.max().item(), "rank correlation": agree}


def written(ax, values):
    """The numbers of a heatmap into its cells."""
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            ax.text(j, i, f"{value:.1f}", ha="center", va="center", size=10,
                    color="white" if value > 0.6 * values.max() else plots.INK)  # fmt: skip


def ranks(values):
    return values.argsort().argsort().float()


def masks(lab):
    """The same corner of one matrix, by each method: what is left, and what pattern that has."""
    name = f"blocks.{len(lab.base.blocks) // 2}.ffn.w_gate"
    inside = slice(0, 32), slice(0, 64)
    sides = {"magnitude": lab.pruned("magnitude", 0.5), "Wanda": lab.pruned("wanda", 0.5),
             "SparseGPT": lab.pruned("sparsegpt", 0.5), "Wanda, 2 of 4": lab.pruned("wanda", 0.5, (2, 4))}
    fig, axes = plots.figure(2, 2, width=10, height=6)
    found, rows = {}, {}
    for ax, (side, model) in zip(axes.flat, sides.items(), strict=True):
        left = magnitude.matrices(model)[name].weight != 0
        plots.heatmap(ax, left[inside], title=side)
        ax.set(xlabel="input", ylabel="output")
        rows[side] = left.float().mean(1)
        found[f"{side}, emptiest row"] = rows[side].min().item()
    lab.save(fig, "masks.png")
    same = (magnitude.matrices(sides["magnitude"])[name].weight != 0)
    for side, model in sides.items():
        other = magnitude.matrices(model)[name].weight != 0
        found[f"{side}, as magnitude"] = (same == other).float().mean().item()
        lab.say(f"  {side:14} the emptiest row keeps {found[f'{side}, emptiest row']:.0%}; "
                f"{found[f'{side}, as magnitude']:.0%} of the mask is magnitude's")  # fmt: skip
    return found


def schedule(lab):
    """When weights go: at once and then training, or bit by bit while training; as many updates each."""
    plan, share = lab.plan(), 0.8
    total = plan.steps * plan.tokens
    fig, ((left, right),) = plots.figure(1, 2, width=11, height=3.8)
    last = max(1, 2 * plan.steps // 3)
    due = [100 * magnitude.cubic(i, last, share) for i in range(plan.steps)]
    right.plot(due, color=plots.COLOURS[0], label="bit by bit (cubic)")
    right.plot([100 * share] * plan.steps, color=plots.COLOURS[1], label="at once")
    found = {}
    for name, colour in (("bit by bit", plots.COLOURS[0]), ("at once", plots.COLOURS[1])):
        model, folder = copy.deepcopy(lab.base), lab.fresh(name)
        if name == "at once":
            magnitude.apply(model, share, magnitude.globally)
            history = _tune.recover(model, lab.ids(plan), plan, folder)
        else:
            history = _tune.gradual(model, lab.ids(plan), plan, folder, share)
        found[name] = lab.perplexity(model)
        left.plot(*history.series("loss"), color=colour, linewidth=1.2, label=name)
        lab.say(f"  {share:.0%} {name}: perplexity {found[name]:.3f} after {total:,} tokens")
    left.set(xlabel="update", ylabel="nats a token")
    right.set(xlabel="update", ylabel="% removed", ylim=(0, 100))
    plots.legend(right, loc="lower right")
    plots.legend(left)
    lab.save(fig, "schedule.png")
    return found


def speed(lab):
    """How long a product takes: with zeros in it, stored sparsely, and with fewer rows and columns."""
    found = _speed.products(lab.config.width, lab.config.rows, lab.config.shares)
    fig, ((ax,),) = plots.figure(width=7.5)
    for name, line in found.items():
        ax.plot([100 * share for share in line], list(line.values()), "o-", label=name)
    plots.level(ax, 1.0, "the whole matrix")
    ax.set_yscale("log", base=2)
    ax.set(xlabel="% of the weights removed", ylabel="times as fast", ylim=(None, 32),
           title=f"{lab.config.rows} rows through {lab.config.width:,} x {lab.config.width:,} weights")
    plots.legend(ax)
    lab.save(fig, "speed.png")
    for name, line in found.items():
        lab.say(f"  {name:24}" + "  ".join(f"{s:.0%}: x {v:.2f}" for s, v in line.items()))
    return {f"{name}, {share:.0%}": value for name, line in found.items() for share, value in line.items()}


def text(lab):
    """What each says at half of its weights, greedily, and what it still knows of the town."""
    found, sides = {}, {"whole": lab.base} | {name: lab.pruned(name, 0.5) for name in _lab.METHODS}
    for name, model in sides.items():
        said, _ = _lab.says(model, lab.tokenizer, lab.config.prompt, lab.config.tokens)
        found[name] = probe.knows(model, lab.tokenizer, TinyTown(), most=lab.config.asked)
        lab.say(f"  {name}, knows {found[name]:.0%}: {lab.config.prompt}{' '.join(said.split())}")
    return found


