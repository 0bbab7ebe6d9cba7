"""Two ways to fuse wrongly: a sum in a careless order, and a line of Python that cuts the graph."""

import torch

from common import plots

from ._breaks import CAUSES, explained
from ._sides import kernels, models


def running(x):
    """The sum of rows (N, C), number after number, kept in the type of x: as a careless loop does it."""
    total = x.new_zeros(len(x))
    for column in x.unbind(1):
        total = total + column
    return total


def lanes(x, n=16):
    """As a vector unit does it: n sums side by side, added at the end, kept in float32."""
    whole = x.float().unflatten(1, (-1, n))  # (N, C / n, n)
    total = whole.new_zeros(len(x), n)
    for part in whole.unbind(1):
        total = total + part
    return total.sum(1)


ORDERS = {"one after another, in bfloat16": (torch.bfloat16, running),
          "one after another, in float32": (torch.float32, running),
          "16 sums side by side, in float32": (torch.float32, lanes)}  # fmt: skip


def order(lab):
    """The mean square of a row, as a norm needs it, summed in three orders: how far from the truth."""
    widths, found = [64], {name: [] for name in ORDERS}
    while widths[-1] * 4 <= lab.config.widest:
        widths.append(widths[-1] * 4)
    draw = torch.Generator().manual_seed(0)
    for width in widths:
        squares = torch.randn(8, width, generator=draw).square()
        truth = squares.double().sum(1)
        for name, (kind, how) in ORDERS.items():
            found[name].append(((how(squares.to(kind)).double() - truth) / truth).abs().mean().item())
    fig, ((ax,),) = plots.figure(width=8)
    for name, line in found.items():
        ax.plot(widths, [max(e, 1e-9) for e in line], marker="o", label=name)
        lab.say(f"  {name}: error {line[0]:.1e} at {widths[0]}, {line[-1]:.1e} at {widths[-1]:,} numbers")
    ax.set(
        xscale="log", yscale="log", xlabel="numbers in the row", ylabel="relative error of its mean square"
    )
    ax.set_xticks(widths, [f"{w:,}" for w in widths])
    ax.minorticks_off()
    plots.legend(ax)
    lab.save(fig, "order.png")
    return {name: line[-1] for name, line in found.items()}


def breaks(lab):
    """What torch.compile makes of a function with one line that it cannot take in, and of the fused model."""
    x, w = torch.randn(4, 16), torch.randn(16, 16)
    with torch.no_grad():
        rows = {name: explained(fn, x, w) for name, fn in CAUSES.items()}
        _, plain, ours = models(lab.config.model, lab, kernels(lab.say))
        tokens = torch.arange(8)[None] % plain.config.vocab_size
        rows |= {
            "the model": explained(plain.cpu(), tokens),
            "the model, fused": explained(ours.cpu(), tokens),
        }
    for name, (graphs, cuts, why) in rows.items():
        lab.say(
            f"  {name}: {graphs} graphs, {cuts} breaks{''.join(f'; {line}' for line in dict.fromkeys(why))}"
        )
    fig, ((ax,),) = plots.figure(width=8, height=3.4)
    bars = ax.barh(list(rows), [graphs for graphs, *_ in rows.values()], color=plots.COLOURS[0])
    ax.bar_label(bars, padding=3, fontsize=11)
    ax.set(title="graphs that torch.compile makes of it", xticks=[])
    ax.invert_yaxis()
    lab.save(fig, "breaks.png")
    return {f"{name}: breaks": cuts for name, (_, cuts, _) in rows.items()}
