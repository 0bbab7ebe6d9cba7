"""Where the parameters are, which layers are alike, and what a low rank leaves out."""

import torch

from common import plots
from common.model import ModelConfig

from . import _ways
from .factorised import break_even, factorise
from .layer_sharing import adjacent, share
from .relaxed import relax
from .tying import count, tied_share

VOCABULARIES = (1_000, 10_000, 50_257, 128_000)
GPT2 = {"n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
SHOWN = ("untied", "tied", "twice", "albert", "factorised")


def parts(lab):
    """What a model of 12 x 768 is made of, at two vocabularies, the more it shares; exact counts."""
    fig, axes = plots.figure(1, 2, width=12, height=4.6)
    found = {}
    for ax, vocab_size in zip(axes[0], VOCABULARIES[1:3], strict=True):
        rows = {way: _ways.breakdown(_ways.on_meta(way, ModelConfig(vocab_size=vocab_size, **GPT2)))
                for way in SHOWN}  # fmt: skip
        left = [0.0] * len(rows)
        for part, colour in zip(next(iter(rows.values())), plots.COLOURS, strict=False):
            widths = [row[part] / 1e6 for row in rows.values()]
            ax.barh(list(rows), widths, left=left, label=part, color=colour, height=0.7)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        first = left[0]
        for place, (way, total) in enumerate(zip(rows, left, strict=True)):
            less = "" if place == 0 else f"  {total / first - 1:.1%}"
            ax.annotate(f"{total:.1f}M{less}", (total, place), xytext=(4, 0), textcoords="offset points",
                        va="center", size=10.5, color=plots.INK)  # fmt: skip
            found[f"{way}, {vocab_size}"] = total / first
        ax.set(xlabel="million parameters", title=f"{vocab_size:,} tokens", xlim=(0, 1.35 * first))
        ax.invert_yaxis()
        ax.grid(False, axis="y")
    plots.legend(axes[0][1], loc="lower right")
    lab.save(fig, "parts.png")
    for name, share_of in found.items():
        lab.say(f"  {name:>20} tokens: {share_of:6.1%} of the untied model")
    return found


def vocabulary(lab):
    """The share of an untied model that a tie saves, against the size of the vocabulary."""
    sizes = {"12 x 768": GPT2, "6 x 256": {"n_layer": 6, "n_head": 8, "n_kv_head": 4, "d_model": 256,
                                           "d_ff": 640}}  # fmt: skip
    fig, ((ax,),) = plots.figure()
    found = {}
    for name, shape in sizes.items():
        model, C = _ways.on_meta("untied", ModelConfig(vocab_size=1, **shape)), shape["d_model"]
        rest = count(model) - 2 * C
        line = [(V, tied_share(V, C, rest)) for V in range(500, 200_001, 500)]
        ax.plot(*zip(*line, strict=True), label=name, linewidth=2)
        for V in VOCABULARIES:
            found[f"{name}, {V}"] = tied_share(V, C, rest)
            lab.say(f"  {name}, {V:7,} tokens: {found[f'{name}, {V}']:.1%}")
    for V in VOCABULARIES:
        ax.axvline(V, color=plots.QUIET, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set_xticks(VOCABULARIES, [f"{V:,}" for V in VOCABULARIES])
    ax.minorticks_off()
    ax.set(xlabel="tokens in the vocabulary", ylabel="share saved by a tie", ylim=(0, 0.5))
    plots.legend(ax, loc="upper left")
    lab.save(fig, "vocabulary.png")
    return found


@torch.no_grad()
def likeness(lab):
    """How alike layers are: what they say (CKA), and what it costs that one runs with another's weights."""
    model, n, seen = lab.base, len(lab.base.blocks), []
    hooks = [block.register_forward_hook(lambda m, i, y: seen.append(y.flatten(0, 1)))
             for block in model.blocks]  # fmt: skip
    rows = lab.town.held[: 8 * lab.config.context].view(8, -1)
    model(rows)
    for hook in hooks:
        hook.remove()
    alike = torch.tensor([[cka(a, b) for b in seen] for a in seen])
    plain, cost = lab.loss(model), torch.zeros(n, n)
    for i, own in enumerate(model.blocks):
        for j, other in enumerate(list(model.blocks)):
            if i != j:
                model.blocks[i] = other
                cost[i, j] = lab.loss(model) - plain
        model.blocks[i] = own
    draw_likeness(lab, alike, cost)
    near = [cost[i, j].item() for i in range(n) for j in range(n) if abs(i - j) == 1]
    far = [cost[i, j].item() for i in range(n) for j in range(n) if abs(i - j) > 1] or [0.0]
    lab.say(f"  a neighbour's weights cost {sum(near) / len(near):.2f} nats, those further off "
            f"{sum(far) / len(far):.2f}; the model itself is at {plain:.2f}")  # fmt: skip
    return {"neighbours": sum(near) / len(near), "others": sum(far) / len(far), "plain": plain}


def cka(x, y):
    """Likeness of two sets of vectors (N, C), 0 to 1, whatever the rotation: linear CKA (Kornblith 2019)."""
    x, y = x - x.mean(0), y - y.mean(0)
    return ((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def draw_likeness(lab, alike, cost):
    fig, ((left, right),) = plots.figure(1, 2, width=11, height=4.6)
    layers = [str(i + 1) for i in range(len(alike))]
    plots.heatmap(left, alike, x=layers, y=layers, title="likeness of what layers say", low=0.0, high=1.0)
    plots.heatmap(right, cost, x=layers, y=layers, title="nats lost when a layer runs with …")
    for ax, table, high in ((left, alike, 1.0), (right, cost, cost.max().item() or 1.0)):
        for i in range(len(layers)):
            for j in range(len(layers)):
                value = table[i, j].item()
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", size=9.5,
                        color="white" if value > 0.6 * high else plots.INK)  # fmt: skip
    left.set(xlabel="layer", ylabel="layer")
    right.set(xlabel="… the weights of layer", ylabel="layer")
    lab.save(fig, "likeness.png")


@torch.no_grad()
def ranks(lab):
    """What a low rank leaves out, nothing trained: of the table, and of pairs of layers that are joined."""
    plain, n, (V, C) = lab.loss(lab.base), len(lab.base.blocks), lab.base.embed.weight.shape
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    found = {}
    most = int(break_even(V, C))
    for E in [E for E in (most // 8, most // 4, most // 2, 3 * most // 4, most - 1) if E >= 1]:
        model = factorise(lab.copy(), E)
        found[f"table, {E}"] = count(model) / count(lab.base), lab.loss(model)
    plan = adjacent(n, max(1, n // 2))
    narrow = lab.base.blocks[0].attn.wk.out_features
    for kind in ("first", "mean"):
        for rank in dict.fromkeys((0, narrow // 16, narrow // 4, narrow // 2, narrow)):
            alike = {"mean": kind == "mean"}
            model = relax(lab.copy(), plan, rank, **alike) if rank else share(lab.copy(), plan, **alike)
            found[f"{kind}, {rank}"] = count(model) / count(lab.base), lab.loss(model)
    for ax, kinds, title in ((left, ("table",), "the table in two parts"),
                             (right, ("first", "mean"), "pairs of layers, and corrections")):  # fmt: skip
        for kind in kinds:
            draw_ranks(ax, kind, {name: row for name, row in found.items() if name.startswith(kind)})
        ax.axhline(plain, color=plots.QUIET, linewidth=1, linestyle="--")
        ax.annotate("as it is", (0, plain), xycoords=("axes fraction", "data"), xytext=(6, -5),
                    textcoords="offset points", va="top", size=10.5, color=plots.QUIET)  # fmt: skip
        ax.set(xlabel="share of the parameters", ylabel="nats a token", title=f"{title}, by rank")
        ax.set_ylim(0)
        ax.margins(x=0.08)
    plots.legend(right)
    lab.save(fig, "ranks.png")
    for name, (share_of, loss) in found.items():
        lab.say(f"  {name:12} {share_of:6.1%} of the parameters, {loss:.4f} nats (as it is {plain:.4f})")
    return {name: loss for name, (_, loss) in found.items()} | {"plain": plain}


def draw_ranks(ax, kind, rows):
    """A line of losses against parameters, each point's rank above it, or below it in the lower line."""
    label = {"first": "the first layer's shared", "mean": "the mean shared"}.get(kind)
    (line,) = ax.plot(*zip(*rows.values(), strict=True), "o-", label=label)
    for name, point in rows.items():
        where = {"xytext": (-4, -7), "ha": "right", "va": "top"} if kind == "first" else {"xytext": (5, 5)}
        ax.annotate(name.split(", ")[1], point, textcoords="offset points", size=10,
                    color=line.get_color(), **where)  # fmt: skip
