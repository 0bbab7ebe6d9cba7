"""What there is to see: two lines and a gate, whose token is whose, what experts buy, experts out of one."""

import copy
from collections import Counter

import torch

from common import plots

from . import moe, router, surgery, two_experts
from .moe import MoEConfig


def toy(lab) -> dict:
    """One straight line, two that are blended, two of which one is picked: who follows a corner?"""
    x = torch.linspace(-1, 1, 201)
    y, found = x.abs(), {}
    fig, axes = plots.figure(1, 3, width=12, height=4.4)
    cases = {"one line": (1, two_experts.blend), "two, blended": (2, two_experts.blend),
             "two, the better one": (2, two_experts.pick)}  # fmt: skip
    for ax, (name, (experts, combine)) in zip(axes[0], cases.items(), strict=True):
        tries = []
        for seed in range(3):  # some starts have both lines on one side
            torch.manual_seed(seed)
            pair = two_experts.Pair(experts, combine)
            tries.append((two_experts.fit(pair, x, y, steps=250)[-1], pair))
        error, pair = min(tries, key=lambda tried: tried[0])
        with torch.no_grad():
            made, gates = pair(x)
            lines = pair.experts(x[:, None])
        ax.plot(x, y, color=plots.GRID, linewidth=6, label="to be learnt")
        for i in range(experts):
            ax.plot(x, lines[:, i], linestyle=":", color=plots.COLOURS[1 + i], label=f"expert {i}")
            ax.fill_between(x, -0.6, -0.6 + 0.3 * gates[:, i], color=plots.COLOURS[1 + i], alpha=0.25)
        ax.plot(x, made, color=plots.COLOURS[0], label="together")
        ax.set(title=f"{name}: error {error:.4f}", ylim=(-0.6, 1.1), xlabel="x; shaded below: the gates")
        found[name] = error
        lab.say(f"  {name:20} mean squared error {error:.5f}")
    plots.legend(axes[0][1], loc="upper center")
    lab.save(fig, "toy.png")
    return found


@torch.no_grad()
def choices(lab, model, layer=-1):
    """(tokens (N,), first choice of each (N,), all choices (N, k)) of unseen pages, at one mixture."""
    tokens, experts = [], []
    for inputs, _ in lab.town.windows(lab.plan.context, 64):
        model(inputs)
        tokens.append(inputs.flatten())
        experts.append(moe.layers(model)[layer].router.routing.experts)
    experts = torch.cat(experts).cpu()
    return torch.cat(tokens).cpu(), experts[:, 0], experts


def token_map(lab) -> dict:
    """The commonest tokens and who takes them; and a page in which each token has its expert's colour."""
    model, _, _ = lab.usual
    tokens, first, every = choices(lab, model)
    E, tokenizer = lab.config.experts, lab.town.tokenizer
    common = [i for i, _ in Counter(tokens.tolist()).most_common(24)]
    own = {i: every[tokens.eq(i)] for i in common}  # {id: (times, k)}
    table = torch.stack([router.load(mine, E) / len(mine) for mine in own.values()])
    fig, ((left, right),) = plots.figure(1, 2, width=12.5, height=6.2)
    names = [repr(tokenizer.decode([i]))[1:-1].replace("$", r"\$").replace(" ", "·") for i in common]
    plots.heatmap(left, table, x=[str(e) for e in range(E)], y=names, high=1.0,
                  title="share of a token's occurrences that an expert takes")  # fmt: skip
    left.set_aspect("auto")
    page(right, [tokenizer.decode([i]) for i in tokens[:480].tolist()], first[:480].tolist())
    lab.save(fig, "map.png")
    mine = table.max(1).values.mean().item()
    chance = (router.load(every, E) / len(every)).max().item()
    lab.say(f"  the 24 commonest tokens: the expert that takes most of a token takes {mine:.0%} of it; the "
            f"busiest expert takes {chance:.0%} of all tokens")  # fmt: skip
    return {"share of a token's own expert": mine, "share of the busiest": chance}


def page(ax, pieces, experts, columns=52):
    """Write a text into `ax`, each piece on the colour of its expert."""
    ax.set(xlim=(0, columns), ylim=(22, -1), title="a page, coloured by the first choice")
    ax.axis("off")
    row = column = 0
    for piece, expert in zip(pieces, experts, strict=True):
        text = piece.replace("\n", " ").replace("$", r"\$")
        if column + len(text) > columns:
            row, column = row + 1, 0
        if row > 21:
            return
        ax.text(column, row, text, family="monospace", size=8.5, color=plots.INK, va="center",
                bbox={"facecolor": plots.COLOURS[expert % len(plots.COLOURS)], "alpha": 0.45, "pad": 1.2,
                      "linewidth": 0})  # fmt: skip
        column += len(text)


def experts(lab) -> dict:
    """The same computation for a token, and more and more weights to choose from."""
    rows, found = {}, {}
    most = lab.config.experts
    for n in sorted({1, most // 2, most, 2 * most}):
        model, _ = lab.plain if n == 1 else lab.usual[:2] if n == most else lab.fit(lab.mixture(experts=n))
        every = sum(p.numel() for p in model.parameters())
        used = every if n == 1 else surgery.active(model)[1]
        rows[n] = lab.loss(model), every, used
        found |= {f"loss, {n}": rows[n][0], f"weights, {n}": every, f"met, {n}": used}
        lab.say(f"  {n:3} experts  {every:9,} weights  {used:9,} met by a token  loss {rows[n][0]:.4f}  "
                f"{1 - used / every:.0%} of the work saved")  # fmt: skip
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    left.plot(list(map(str, rows)), [loss for loss, _, _ in rows.values()], marker="o")
    left.set(xlabel="experts (1: dense)", ylabel="nats a token, unseen", title="The same work, a lower loss?")
    plots.bars(right, {str(n): {"weights": every / 1e3, "met by a token": used / 1e3}
                       for n, (_, every, used) in rows.items()}, label="{:.0f}")  # fmt: skip
    right.set(xlabel="experts", ylabel="thousand weights", title="What is held, and what is used")
    plots.legend(right)
    lab.save(fig, "experts.png")
    return found


def upcycle(lab) -> dict:
    """A trained model goes on, dense or with its feed-forward copied into experts; or all from the start."""
    dense, _ = lab.plain
    config = MoEConfig(experts=lab.config.experts // 2, k=2)
    more, raised = copy.deepcopy(dense), surgery.upcycle(copy.deepcopy(dense), config)
    at = {"before": lab.loss(dense), "upcycled": lab.loss(raised)}
    fig, ((ax,),) = plots.figure()
    for name, model in (("dense, going on", more), ("upcycled", raised)):
        model, curve = lab.fit(model, seed=1)
        at[f"{name}, after"] = lab.loss(model)
        ax.plot(*curve, label=f"{name}: {at[f'{name}, after']:.3f}", linewidth=1.1)
    _, scratch = lab.fit(lab.mixture(experts=config.experts, d_ff=lab.config.d_ff, scale=1.0), seed=1)
    ax.plot(*scratch, label="the same experts, from the start", linewidth=1.1)
    ax.set(xlabel="update", ylabel="nats a token, and what routers add", title="Experts out of one")
    ax.set_ylim(top=1.6 * at["before"] + 0.1)
    plots.legend(ax)
    lab.save(fig, "upcycle.png")
    for name, loss in at.items():
        lab.say(f"  {name:22} {loss:.4f} nats a token")
    return at
