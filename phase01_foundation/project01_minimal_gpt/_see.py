"""Pictures of a trained model at work: where its heads look, how positions enter, what sampling does."""

import math

import torch

from common import plots

from .attention import attend
from .gpt import generate, top_k, top_p
from .positions import rope_angles, rotate, sinusoids
from .text import split_loss


@torch.no_grad()
def head_weights(model, ids):
    """Where each head of each layer looks: ids (T,) -> (layers, heads, T, T)."""
    found = []

    def note(layer, inputs):
        found.append(attend(*layer.project(*inputs), causal=layer.causal)[1][0])

    hooks = [block.attn.register_forward_pre_hook(note) for block in model.blocks]
    model(ids[None])
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


@torch.no_grad()
def cost_of_silence(model, ids, windows):
    """How much the loss rises when one head says nothing (its columns of wo are zero): (layers, heads)."""
    plain = split_loss(model, ids, most=windows)
    costs = []
    for block in model.blocks:
        wo = block.attn.wo.weight
        D = wo.size(1) // block.attn.n_head
        for head in range(block.attn.n_head):
            kept = wo[:, head * D : (head + 1) * D].clone()
            wo[:, head * D : (head + 1) * D] = 0
            costs.append(split_loss(model, ids, most=windows) - plain)
            wo[:, head * D : (head + 1) * D] = kept
    return torch.tensor(costs).view(len(model.blocks), -1)


def draw_heads(weights, costs):
    """Every head's table of shares; above it how far back it looks on average, and what silence costs."""
    n_layer, n_head, T, _ = weights.shape
    back = (torch.arange(T)[:, None] - torch.arange(T)).clamp(min=0)
    fig, axes = plots.figure(n_layer, n_head, width=2.3 * n_head, height=2.55 * n_layer)
    for layer in range(n_layer):
        for head in range(n_head):
            ax, table = axes[layer, head], weights[layer, head]
            plots.heatmap(ax, table.sqrt(), high=1.0)  # the root lets small shares show
            far = (table * back).sum() / T
            said = f"layer {layer + 1}, head {head + 1}\n{far:.1f} back, silenced {costs[layer, head]:+.3f}"
            ax.set_title(said, size=10)
    fig.supxlabel("the character looked at", size=12, color=plots.INK)
    fig.supylabel("the character that looks", size=12, color=plots.INK)
    return fig


def draw_head(table, text, title):
    """One head's table with its characters: row t shows where the t-th character looks."""
    names = [{"\n": "↵", " ": "·"}.get(symbol, symbol) for symbol in text]
    fig, ((ax,),) = plots.figure(width=7.2, height=7.0)
    plots.heatmap(ax, table, x=names, y=names, title=title)
    ax.set(xlabel="looked at", ylabel="looks")
    return fig


# --- positions in three dimensions --------------------------------------------------------------------------

WORDS = ("the", "cat", "saw", "the", "dog")
SPACE = {"the": (1.0, -0.2, 0.0), "cat": (-0.3, 1.0, 0.5), "saw": (-1.0, -0.6, 0.9), "dog": (0.4, 1.2, 1.3)}


def film_of_positions(frames):
    """draw(i) for `plots.animate`: five words in space; left sinusoids are added, right RoPE turns them."""
    words = torch.tensor([SPACE[word] for word in WORDS])  # (5, 3)
    where = torch.arange(len(WORDS))
    helix = torch.cat((sinusoids(where, 2), 30 * sinusoids(where, 4)[:, 2:3]), dim=1)
    angles = rope_angles(where, 2)

    def draw(i):
        done = i / max(frames - 1, 1)
        share = 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, 1.6 * done - 0.25)))  # rest, move, rest
        steps = share * torch.linspace(0, 1, 20)[:, None, None]  # the way so far
        added = words + steps * (helix - helix[0])  # (20, 5, 3)
        plane = rotate(words[:, :2], steps * angles)
        turned = torch.cat((plane, words[:, 2:].expand(20, -1, -1)), dim=-1)
        fig, axes = plots.figure(1, 2, width=10, height=5.2, projection="3d")
        draw_words(axes[0, 0], added, "sinusoids: a step along a helix is added")
        draw_words(axes[0, 1], turned, "RoPE: every word is turned by its place")
        said = ("no places yet: both “the” are one point" if share < 0.01 else
                "the places go in …" if share < 0.99 else "the places are in: two points")
        fig.supxlabel(said, size=13, color=plots.COLOURS[1])
        return fig

    return draw


def draw_words(ax, ways, title):
    """Each word at the end of its way so far; ways (steps, words, 3)."""
    for place, word in enumerate(WORDS):
        colour = plots.COLOURS[1] if word == "the" else plots.COLOURS[0]
        x, y, z = ways[:, place].T.tolist()
        ax.plot(x, y, z, color=colour, linewidth=1.2, alpha=0.5)
        ax.plot([x[-1]] * 2, [y[-1]] * 2, [-0.3, z[-1]], color=plots.QUIET, linewidth=0.7, linestyle=":")
        ax.scatter(x[-1], y[-1], z[-1], s=70, color=colour, depthshade=False)
        ax.text(x[-1], y[-1], z[-1] + 0.16, f"{word}$_{place}$", size=13, color=plots.INK, ha="center")
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color("white")
        axis.set_ticklabels([])
    ax.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), zlim=(-0.3, 2.4))
    ax.text2D(0.5, 0.96, title, transform=ax.transAxes, ha="center", size=13, color=plots.INK)
    ax.set_box_aspect((1, 1, 0.8), zoom=1.15)
    ax.view_init(elev=20, azim=42)


# --- sampling -----------------------------------------------------------------------------------------------

@torch.no_grad()
def sampling(model, characters, words, *, rows, seed, temperature=1.0, k=0, p=1.0):
    """(mean entropy of what was drawn from, in nats; share of distinct 4-grams; share of words that exist).

    `rows` texts of one context each; `words` are those of the training text.
    """
    start = torch.full((rows, 1), characters.number.get("\n", 0))
    draw = torch.Generator().manual_seed(seed)
    length = model.config.max_seq_len
    ids = generate(model, start, length, temperature=temperature, k=k, p=p, generator=draw)
    entropy = 0.0
    if temperature:
        logits = model(ids[:, :-1]).flatten(0, 1)
        shares = top_p(top_k(logits / temperature, k), p).softmax(-1)
        entropy = torch.special.entr(shares).sum(-1).mean().item()
    texts = [characters.decode(row) for row in ids.tolist()]
    grams = [text[i : i + 4] for text in texts for i in range(len(text) - 3)]
    said = [word for text in texts for word in text.split()[1:-1]]  # the first and last may be cut off
    return entropy, len(set(grams)) / len(grams), sum(word in words for word in said) / max(len(said), 1)


def draw_sampling(line, points):
    """Entropy against diversity, and against real words: `line` over temperatures, `points` by name."""
    fig, axes = plots.figure(1, 2, width=10.5, height=4.4)
    views = ((axes[0, 0], 1, "distinct 4-grams", -1), (axes[0, 1], 2, "words that exist", 1))
    for ax, which, label, side in views:
        ax.plot(*zip(*((row[0], row[which]) for row in line.values()), strict=True), marker="o", linewidth=2)
        for name, row in line.items():
            if name % 0.5:
                continue  # a label for every other one: they would stand on each other
            label_point(ax, f"{name:g}", (row[0], row[which]), (-8 * side, -15), plots.COLOURS[0])
        for colour, (name, row) in zip(plots.COLOURS[1:], points.items(), strict=False):
            ax.plot(row[0], row[which], "D", color=colour, markersize=8)
            label_point(ax, name, (row[0], row[which]), (30 * side, 8), colour)
        ax.set(xlabel="entropy of what is drawn from, nats", ylabel=f"share of {label}", ylim=(-0.05, 1.08))
    axes[0, 0].set_title("hotter: more different text")
    axes[0, 1].set_title("too hot: no longer words")
    return fig


def label_point(ax, text, at, beside, colour):
    ax.annotate(text, at, xytext=beside, textcoords="offset points", size=10.5, color=colour, ha="center")
