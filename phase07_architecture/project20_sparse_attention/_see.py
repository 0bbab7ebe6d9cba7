"""What patterns look like, how far they reach through layers, how their time grows; where attention lies."""

from functools import partial

import torch
import torch.nn.functional as F

from common import plots, profiling
from common.model import attend, set_attend

from . import learned, patterns
from ._sides import dense, inputs, over, pattern_of, root, slope

SHOWN = {
    "all that came before": patterns.causal(), "window": patterns.window(8),
    "dilated window": patterns.window(8, 3), "window and sinks": patterns.sinks(8, 3),
    "Longformer": patterns.longformer(6, (0, 16, 32)), "BigBird": patterns.bigbird(4, 2, 1, 2),
    "fixed": patterns.fixed(7), "strided": patterns.strided(7),
}  # fmt: skip


def masks(lab):
    """Eight patterns for 48 tokens: a row is a query, a column a key."""
    T, found = 48, {}
    t, s = torch.arange(T)[:, None], torch.arange(T)
    fig, axes = plots.figure(2, 4, width=11, height=5.9)
    for ax, (name, pattern) in zip(axes.flat, SHOWN.items(), strict=True):
        look = pattern.look(t, s)
        found[name] = look.float().mean().item() * 2 * T / (T + 1)
        plots.heatmap(ax, look.int() * 0.75 + 0.12 * (s <= t), title=name, high=1.0)
        lab.say(f"  {name:22} {look.sum():5} pairs, {found[name]:4.0%} of those that came before")
    lab.save(fig, "masks.png")
    return found


def reach(lab):
    """Through how many layers a pattern must go until a token can know of every one before it."""
    T, layers = lab.config.reach, 8
    t, s = torch.arange(T)[:, None], torch.arange(T)
    width = root(T)
    before, found = (s <= t).sum(), {}
    fig, ((ax,),) = plots.figure(height=4.6)
    markers = iter("os^vDPX")
    for name in ("window", "sinks", "longformer", "bigbird", "fixed", "strided"):
        one = pattern_of(name, T, width).look(t, s).float()
        known, shares = torch.eye(T), []
        for _ in range(layers):
            known = ((one @ known) > 0).float()
            shares.append((known.sum() / before).item())
        ax.plot(range(1, layers + 1), shares, marker=next(markers), label=name)
        found |= {f"{name}, 1": shares[0], f"{name}, 2": shares[1], f"{name}, {layers}": shares[-1]}
        lab.say(f"  {name:12}" + " ".join(f"{share:4.0%}" for share in shares) + "   layer by layer")
    ax.set(xlabel="layers", ylabel="share of the past a token can know of", ylim=(0, 1.04),
           title=f"{T} tokens, {width} to a window or block")  # fmt: skip
    plots.legend(ax, loc="lower right", ncols=3)
    lab.save(fig, "reach.png")
    return found


@torch.no_grad()
def time(lab):
    """One attention against its length: dense, a window, fixed and strided blocks; a slope is a power."""
    kinds = {"dense (torch)": None, "strided": "strided", "fixed": "fixed", "window": "window"}
    taken, found = {name: [] for name in kinds}, {}
    for T in lab.lengths():
        q, k, v = inputs(2, T, lab.config.head_dim, device=lab.device)
        for name, kind in kinds.items():
            call = over(pattern_of(kind, T, lab.config.width)) if kind else dense
            taken[name].append(profiling.shortest(partial(call, q, k, v), lab.device, 0.05))
        lab.say(f"  {T:6} tokens: " + ", ".join(f"{n} {x[-1] * 1e3:.1f} ms" for n, x in taken.items()))
    fig, ((ax,),) = plots.figure(height=4.6)
    for (name, seconds), marker in zip(taken.items(), "os^v", strict=True):
        found[name] = slope(lab.lengths(), seconds)
        ax.plot(lab.lengths(), seconds, marker=marker, label=f"{name}: n^{found[name]:.2f}")
    ax.set(xscale="log", yscale="log", xlabel="tokens", ylabel="seconds", title="one sequence, two heads")
    ax.set_xticks(lab.lengths(), [f"{n:,}" for n in lab.lengths()])
    ax.minorticks_off()
    plots.legend(ax)
    lab.save(fig, "time.png")
    return found


class Watch:
    """An attend of the core's that keeps the queries and keys of every layer."""

    def __init__(self):
        self.seen = []

    def __call__(self, q, k, v, **where):
        self.seen.append((q, k))
        return attend(q, k, v, **where)


def mass(q, k, chosen, block):
    """The share of attention that lies on these blocks, own block apart: (B, H, T'), of queries from the
    second half on. q (B, H, T, D), k (B, K, T, D), chosen (B, H, T, blocks) bool."""
    T, G = q.size(2), q.size(1) // k.size(1)
    scores = q @ k.repeat_interleave(G, 1).mT / q.size(-1) ** 0.5  # (B, H, T, T)
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    p = scores.masked_fill(future, -torch.inf).softmax(-1)
    own = torch.arange(T, device=q.device)[:, None] // block == torch.arange(T, device=q.device) // block
    look = chosen.repeat_interleave(block, -1)[..., :T] & ~own
    return ((p * look).sum(-1) / (p * ~own).sum(-1).clamp_min(1e-9))[:, :, T // 2 :]


def others(kind, q, k, block, top, seed=0):
    """top - 1 earlier blocks chosen at random, or the nearest, or the ones with most attention on them."""
    (B, H, T, _), n = q.shape, q.size(2) // block
    slots = torch.arange(T, device=q.device)
    if kind == "random":
        fit = torch.rand(B, H, T, n, generator=torch.Generator().manual_seed(seed)).to(q.device)
    elif kind == "nearest":
        fit = torch.arange(n, device=q.device).float().expand(B, H, T, n)
    else:
        scores = q @ k.repeat_interleave(H // k.size(1), 1).mT / q.size(-1) ** 0.5
        p = scores.masked_fill(slots > slots[:, None], -torch.inf).softmax(-1)
        fit = p[..., : n * block].unflatten(-1, (n, block)).sum(-1)
    own = (slots // block)[:, None]
    earlier = torch.arange(n, device=q.device) < own
    best = fit.masked_fill(~earlier, -torch.inf).topk(min(top - 1, n), -1).indices
    chosen = torch.zeros_like(fit, dtype=torch.bool).scatter(-1, best, True) & earlier
    return F.pad(chosen, (0, 1))


@torch.no_grad()
def masses(model, rows, block, top):
    """{who chose: mean share of the attention outside the own block that lies on top - 1 blocks}."""
    watch, kinds = Watch(), ("routed", "random", "nearest", "best")
    set_attend(model, watch)
    for row in rows:
        model.hidden(row[None])
    set_attend(model, attend)
    shares = {kind: [] for kind in kinds}
    for number, (q, k) in enumerate(watch.seen):
        slots = torch.arange(q.size(2), device=q.device)[None]
        for kind in kinds:
            chosen = learned.choose(q, k, slots, block, top) if kind == "routed" else \
                others(kind, q, k, block, top, number)  # fmt: skip
            shares[kind].append(mass(q, k, chosen, block).mean().item())
    return {kind: sum(values) / len(values) for kind, values in shares.items()}


def routing(lab):
    """How much of the base model's attention some blocks hold: chosen by their mean key, and otherwise."""
    block, tops = lab.config.block, [top for top in (2, 3, 5, 9) if top * lab.config.block < lab.context]
    rows = [lab.text(number, lab.context) for number in range(lab.config.documents)]
    lines, found = {}, {}
    for top in tops:
        for kind, share in masses(lab.base, rows, block, top).items():
            lines.setdefault(kind, []).append(share)
    fig, ((ax,),) = plots.figure()
    for (kind, line), marker in zip(lines.items(), "osv^", strict=True):
        ax.plot([top - 1 for top in tops], line, marker=marker, label=kind)
        found |= {f"{kind}, {top - 1}": share for top, share in zip(tops, line, strict=True)}
        lab.say(f"  {kind:8}" + "  ".join(f"{share:.1%}" for share in line))
    ax.set(xlabel=f"blocks of {block} keys, beside the own", ylabel="share of the attention outside the own",
           ylim=(0, 1), title=f"the base model, {lab.context} tokens")  # fmt: skip
    plots.legend(ax)
    lab.save(fig, "routing.png")
    return found
