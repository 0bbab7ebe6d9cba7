"""Experiments that take a working model apart: the mask, q, k and v, the positions, the start."""

import copy

import torch
from torch import nn

from common import plots

from ._ablations import fit
from .gpt import GPT, GPTConfig
from .text import batch, split_loss

LABEL = {"size": 11, "color": plots.INK, "padding": 4, "bbox": {"color": "white", "pad": 1.5}}


def small(n_symbols, **settings):
    """A GPT of two blocks, 64 wide, with two heads, that trains in seconds."""
    return GPT(GPTConfig(**{"vocab_size": n_symbols, "n_layer": 2, "n_head": 2, "d_model": 64, **settings}))


# --- the mask -----------------------------------------------------------------------------------------------


def leak(causal, *, steps, symbols, context, seed=0):
    """Training on noise, where there is nothing to learn: (loss of each step, loss at each place afterwards).

    Without the mask every token but the last of a window can read its answer off the token after it.
    """
    torch.manual_seed(seed)
    model = small(symbols, max_seq_len=context, causal=causal)
    draw = torch.Generator().manual_seed(seed)

    def noise(i):
        text = torch.randint(symbols, (32, context + 1), generator=draw)
        return text[:, :-1], text[:, 1:]

    losses = fit(model, noise, steps)
    inputs, targets = noise(steps)
    with torch.no_grad():
        each = nn.functional.cross_entropy(model(inputs).transpose(1, 2), targets, reduction="none")
    return losses, each.mean(0).tolist()


def trained_without_mask(characters, train_ids, *, steps, seed=0):
    """A small model of the corpus that was allowed to look at the answers while it trained."""
    torch.manual_seed(seed)
    model = small(len(characters), causal=False)
    fit(model, lambda i: batch(train_ids, 64, 12, seed=i), steps)
    return model


def draw_leak(curves, places, floor, honest):
    """Left, the loss over the steps with both limits; right, the unmasked model's loss at each place."""
    fig, axes = plots.figure(1, 2, width=10.5, height=4.2)
    left, right = axes[0]
    for name, losses in curves.items():
        left.plot(losses, linewidth=1.8, label=name)
    plots.level(left, honest, "ln V: all that is honest on noise")
    plots.level(left, floor, "ln(V) / T: only the last token has no answer to copy")
    left.set(xlabel="step", ylabel="loss, nats per token", ylim=(0, 1.25 * honest),
             title="noise, “learned”")
    plots.legend(left, loc="center right")
    right.bar(range(1, len(places) + 1), places, color=plots.COLOURS[1])
    plots.level(right, honest, "ln V")
    right.set(xlabel="place in the window", ylabel="loss, nats", ylim=(0, 1.25 * honest),
              title="without the mask: the loss at each place")
    return fig


# --- q, k and v ---------------------------------------------------------------------------------------------


def exchanged(model, a, b):
    """A copy of the model in which the projections a and b have changed places in every block."""
    model = copy.deepcopy(model)
    for block in model.blocks:
        one, other = getattr(block.attn, a), getattr(block.attn, b)
        setattr(block.attn, a, other)
        setattr(block.attn, b, one)
    return model


def zeroed(model, name):
    """A copy of the model in which the projection says nothing but zero, and cannot learn to."""
    model = copy.deepcopy(model)
    for block in model.blocks:
        for weight in getattr(block.attn, name).parameters():
            nn.init.zeros_(weight.requires_grad_(False))
    return model


def surgery(model):
    """Name -> the model with that done to it. A trained one breaks; a fresh one is only another fresh one."""
    pairs = {"q ↔ k": ("wq", "wk"), "q ↔ v": ("wq", "wv"), "k ↔ v": ("wk", "wv")}
    return {"intact": model, **{name: exchanged(model, *pair) for name, pair in pairs.items()},
            **{f"{name} = 0": zeroed(model, f"w{name}") for name in "qkv"}}


def retrain(characters, train_ids, *, steps, seed=0):
    """The same done before training: name -> the loss of every step, from one start, on the same batches."""
    torch.manual_seed(seed)
    fresh = small(len(characters))
    chosen = ("intact", "q ↔ k", "q = 0", "v = 0")
    return {name: fit(model, lambda i: batch(train_ids, 64, 12, seed=i), steps)
            for name, model in surgery(fresh).items() if name in chosen}


def draw_surgery(after, curves, blind):
    """Left, a trained model's loss after each operation; right, the same operations before training."""
    fig, axes = plots.figure(1, 2, width=11, height=4.4)
    left, right = axes[0]
    bars = left.barh(list(after), list(after.values()), color=plots.COLOURS[1])
    bars[0].set_color(plots.COLOURS[0])
    left.bar_label(bars, fmt="%.2f", **LABEL)
    left.axvline(blind, color=plots.QUIET, linewidth=1, linestyle=(0, (4, 3)))
    left.invert_yaxis()
    left.set(xlabel="validation loss, nats (dashes: blind guessing)", title="done to a trained model")
    left.margins(x=0.15)
    for name, losses in curves.items():
        right.plot(smooth(losses), linewidth=1.8, label=name, linestyle="--" if name == "q ↔ k" else "-")
    right.set(xlabel="step", ylabel="training loss, nats", title="done before training")
    plots.legend(right)
    return fig


def smooth(losses, width=25):
    """A running mean over the last steps."""
    line = torch.tensor(losses).cumsum(0)
    before = torch.cat((torch.zeros(width), line))[: len(line)]
    return ((line - before) / torch.arange(1, len(line) + 1).clamp(max=width)).tolist()


# --- positions ----------------------------------------------------------------------------------------------


def order_task(i, *, symbols=12, context=12, size=64):
    """Shuffled symbols, none twice; at each place name the symbol to the left (at the first: itself)."""
    draw = torch.Generator().manual_seed(i)
    inputs = torch.rand(size, symbols, generator=draw).argsort(dim=1)[:, :context]
    return inputs, torch.cat((inputs[:, :1], inputs[:, :-1]), dim=1)


def tell_the_neighbour(causal, placed, *, steps, seed=0):
    """How often, after training, a model names the symbol to the left, with positions or without."""
    torch.manual_seed(seed)
    model = small(12, max_seq_len=12, causal=causal)
    if not placed:
        nn.init.zeros_(model.positions.weight.requires_grad_(False))
    fit(model, lambda i: order_task(i), steps)
    inputs, targets = order_task(10**6, size=500)
    with torch.no_grad():
        return (model(inputs).argmax(-1) == targets)[:, 1:].float().mean().item()


def draw_order(shares):
    """Four bars: both kinds of attention, with and without positions."""
    fig, ((ax,),) = plots.figure(width=7.4, height=3.6)
    bars = ax.barh(list(shares), list(shares.values()), color=[plots.COLOURS[c] for c in (0, 1, 0, 1)])
    ax.bar_label(bars, fmt="{:.0%}", **LABEL)
    ax.invert_yaxis()
    ax.axvline(1 / 11, color=plots.QUIET, linewidth=1, linestyle=(0, (4, 3)))
    ax.set(xlim=(0, 1.12), xlabel="names the symbol to its left (dashes: chance)")
    ax.set_title("who stood before me?")
    return fig


# --- the start ----------------------------------------------------------------------------------------------


def start(characters, train_ids, val_ids, *, steps, windows=None, seed=0, **settings):
    """(first loss, validation loss at the end) of a small model with this init_std or norm_eps."""
    torch.manual_seed(seed)
    model = small(len(characters), **settings)
    losses = fit(model, lambda i: batch(train_ids, 64, 12, seed=i), steps)
    return losses[0], split_loss(model, val_ids, windows)


def draw_start(stds, epss, blind):
    """Two lines: the loss over the spread of the first weights, and over the eps inside the norms."""
    fig, axes = plots.figure(1, 2, width=10.5, height=4.2)
    for ax, found, label in ((axes[0, 0], stds, "init_std"), (axes[0, 1], epss, "norm_eps")):
        for which, name, style in ((0, "first step", "o--"), (1, "after training", "o-")):
            ax.plot(list(found), [row[which] for row in found.values()], style, linewidth=2, label=name)
        plots.level(ax, blind, "blind guessing")
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="loss, nats")
        ax.set_yticks((2, 3, 5, 10, 20), ("2", "3", "5", "10", "20"))
        ax.set_yticks((), minor=True)
        ax.set_xticks(list(found), [f"{value:g}" for value in found])
        ax.set_xticks((), minor=True)
        ax.set_ylim(1.8, 25)
        plots.legend(ax, loc="upper left")
    axes[0, 0].set_title("how large the first weights are")
    axes[0, 1].set_title("what keeps a norm from dividing by zero")
    return fig
