"""What there is to break: the sink, the reach of a window, a context that is too long, tiles of a comb."""

import copy

import torch

from common import plots
from common.model import attend, set_attend

from . import _long, _passkey, patterns
from ._sides import attend_of, root
from .block_sparse import TILE, pieces, sparse
from .rope_scaling import WAYS, extend

KINDS = ("dense", "window", "sinks", "fixed", "routed")


def passkey(lab):
    """Small models that learn to give a digit back, each through its own pattern: how far is it found?"""
    length, steps = lab.config.passkey, lab.config.steps
    width, depths = max(4, length // 8), [0.02, 0.2, 0.4, 0.6, 0.8, 0.97]
    table, found = [], {}
    for name in KINDS:
        model = _passkey.trained(length, steps, attend_of(name, length, width), lab.device)
        table.append([_passkey.found(model, length, depth) for depth in depths])
        found |= {f"{name}, far": table[-1][0], f"{name}, near": table[-1][-1]}
        lab.say(f"  {name:8}" + " ".join(f"{share:5.0%}" for share in table[-1]) + "   from far to near")
    fig, ((ax,),) = plots.figure(width=7.5, height=3.6)
    shades(ax, table, [f"{depth:.0%}" for depth in depths], list(KINDS))
    ax.set(xlabel=f"where the digit stands in {length} tokens",
           title=f"found; guessing finds {1 / _passkey.DIGITS:.0%}")  # fmt: skip
    lab.save(fig, "passkey.png")
    return found


def shades(ax, table, x, y):
    """A heat map with its numbers."""
    plots.heatmap(ax, table, x=x, y=y, high=1.0)
    for i, row in enumerate(table):
        for j, share in enumerate(row):
            ax.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=10.5,
                    color="white" if share > 0.55 else plots.INK)  # fmt: skip
    ax.set_aspect("auto")


def lengths(lab):
    """A digit to be found in rows longer than any in training: angles as they are, and brought back."""
    length, factors, table, found = lab.config.passkey, (1, 2, 4, 8), [], {}
    learnt = _passkey.trained(length, lab.config.steps, attend, lab.device)
    for way in ("as it is", *WAYS):
        line = []
        for factor in factors:
            model = copy.deepcopy(learnt)
            model = model if way == "as it is" else extend(model, way, float(factor))
            shares = [_passkey.found(model, factor * length, depth) for depth in (0.1, 0.3, 0.5, 0.7, 0.9)]
            line.append(sum(shares) / len(shares))
        table.append(line)
        found |= {f"{way}, {factor} x": share for factor, share in zip(factors, line, strict=True)}
        lab.say(f"  {way:9}" + " ".join(f"{share:5.0%}" for share in line) + "   at 1, 2, 4, 8 times")
    fig, ((ax,),) = plots.figure(width=6.5, height=3.2)
    shades(ax, table, [f"{factor} x {length}" for factor in factors], ["as it is", "linear", "NTK", "YaRN"])
    ax.set(xlabel="tokens of a row", title=f"digits found; trained on {length} tokens, and not since")
    lab.save(fig, "lengths.png")
    return found


@torch.no_grad()
def context(lab):
    """What a token costs the base model, by its place, up to four contexts far: plain and scaled."""
    most, size = lab.config.longest, max(16, lab.config.longest // 32)
    factor = max(1.0, most / lab.context)
    chronicles = _long.Chronicles(lab.tokenizer, most)
    sides = {"as it is": lab.base}
    for way in WAYS:
        sides[way] = extend(copy.deepcopy(lab.base), way, factor)
    sides |= lab.long_model()
    fig, ((ax,),) = plots.figure(width=8.5, height=4.6)
    found = {}
    for (name, model), colour in zip(sides.items(), plots.COLOURS, strict=False):
        losses, _, _ = _long.judge(model, chronicles, range(lab.config.documents))
        line, end = _long.binned(losses, size), _long.collapse(losses, lab.context, size)
        within, beyond = losses[size : lab.context].mean().item(), losses[lab.context :].mean().item()
        ax.plot([size * (i + 0.5) for i in range(len(line))], line, label=name, color=colour)
        found |= {f"{name}, within": within, f"{name}, beyond": beyond, f"{name}, collapse": end or most}
        lab.say(f"  {name:10} {within:.3f} nats within {lab.context}, {beyond:.3f} beyond; "
                + (f"collapses at {end}" if end else "does not collapse"))  # fmt: skip
    ax.axvline(lab.context, color=plots.QUIET, linewidth=1, linestyle=":")
    ax.set(xlabel="position; dotted: the context of its training", ylabel="nats a token")
    plots.legend(ax)
    lab.save(fig, "context.png")
    return found


@torch.no_grad()
def sinks(lab):
    """The base model behind a window, with and without the first four tokens in sight."""
    T, width = lab.context, max(8, lab.context // 8)
    chronicles = _long.Chronicles(lab.tokenizer, max(512, T))
    sides = {"all": attend, f"the last {width + 4}": sparse(patterns.window(width + 4)),
             f"the last {width}, and the first 4": sparse(patterns.sinks(width))}  # fmt: skip
    size, found = max(8, T // 32), {}
    fig, ((ax,),) = plots.figure(width=8, height=4.2)
    for name, fn in sides.items():
        losses, _, _ = _long.judge(set_attend(lab.base, fn), chronicles, range(lab.config.documents))
        line = _long.binned(losses, size)
        ax.plot([size * (i + 0.5) for i in range(len(line))], line, label=name)
        found[name] = losses[2 * width :].mean().item()
        lab.say(f"  {name:28} {found[name]:.3f} nats a token from {2 * width} on")
    set_attend(lab.base, attend)
    ax.axvline(width, color=plots.QUIET, linewidth=1, linestyle=":")
    ax.set(xlabel="position; dotted: the window is full", ylabel="nats a token", title="what a query sees")
    plots.legend(ax)
    lab.save(fig, "sinks.png")
    return found


def comb(lab):
    """Pairs that are computed for each pair that is asked for: queries in order, and put together by step."""
    T = lab.config.comb
    width, positions, found = root(T), torch.arange(T, dtype=torch.int32), {}
    shown = {"window": patterns.window(width), "dilated": patterns.window(width, 8),
             "fixed": patterns.fixed(width), "strided": patterns.strided(width)}  # fmt: skip
    for name, pattern in shown.items():
        work = [(look.numel(), int(look.sum())) for _, _, look in pieces(pattern, positions)]
        together, asked = (sum(column) for column in zip(*work, strict=True))
        rows = [range(i, min(i + TILE, T)) for i in range(0, T, TILE)]
        in_order = sum(len(part) * len(pattern.keys(part)) for part in rows)
        found |= {f"{name}, in order": in_order / asked, f"{name}, by step": together / asked}
        lab.say(f"  {name:8} asked for {asked:9,}, computed in order {in_order / asked:5.1f} times as many, "
                f"by step {together / asked:4.1f}")  # fmt: skip
    fig, ((ax,),) = plots.figure(width=8)
    ways = {"in order": "tiles of queries in order", "by step": "queries a step apart together"}
    plots.bars(ax, {name: {label: found[f"{name}, {way}"] for way, label in ways.items()} for name in shown})
    ax.set(ylabel="pairs computed for one asked for", title=f"{T:,} tokens, tiles of {TILE}")
    plots.legend(ax)
    lab.save(fig, "comb.png")
    return found
