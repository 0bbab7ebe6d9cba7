"""What there is to see: the tiles one after another, memory and time against length, the roofline."""

import math

import numpy as np
import torch
from matplotlib.patches import Rectangle

from common import plots, profiling

from . import tiled
from ._sides import and_back, inputs, sides_of

SIDES = ("materialised", "torch's SDPA", "tiled")
RIDGE = 989e12 / 4.8e12  # FLOP/s in bfloat16 over bytes/s, both from the data sheet
COLOURS = dict(zip(SIDES, (plots.COLOURS[1], plots.COLOURS[6], plots.COLOURS[0]), strict=True))


# ---- the tiles, one after another --------------------------------------------------------------------------


def steps_of(scores, v, size):
    """[(first query, first key, stop, state after that tile)] of one head, scores (T, T) and v (T, D)."""
    found, T = [], len(scores)
    for i in range(0, T, size):
        rows = slice(i, i + size)
        none = torch.zeros(min(size, T - i), 1)
        state = none + tiled.LOW, none, none * torch.zeros(v.size(1))
        reach = torch.arange(i + 1, i + 1 + len(none))[None]
        for start, stop, _ in tiled.key_tiles(reach, size):
            hidden = ~tiled.in_reach(reach, start, stop)[0]
            part = scores[rows, start:stop].masked_fill(hidden, -math.inf)
            state = tiled.fold(state, part, v[start:stop])
            found.append((i, start, stop, state))
    return found


def frame(scores, v, steps, number, size):
    """The map of tiles, and how far the last query of the tile has come, after step `number`."""
    fig, ((left, right),) = plots.figure(1, 2, width=9.5, height=4.6)
    T, (i, start, _, state) = len(scores), steps[number]
    shown = scores.masked_fill(torch.ones(T, T).triu(1).bool(), math.nan)
    left.imshow(shown.numpy(), cmap="Blues", vmin=-3, vmax=3, alpha=0.45)
    for row in range(0, T, size):
        for column in range(0, T, size):
            done = any((a, b) == (row, column) for a, b, *_ in steps[:number])
            now, skipped = (row, column) == (i, start), column > row
            look = {"facecolor": "#E5E5E5", "hatch": "//", "edgecolor": "#BBBBBB"} if skipped else {
                "facecolor": plots.COLOURS[4] if now else plots.COLOURS[2] if done else "none",
                "alpha": 0.75 if now else 0.35, "edgecolor": plots.QUIET}  # fmt: skip
            left.add_patch(Rectangle((column - 0.5, row - 0.5), size, size, linewidth=1, **look))
    left.set(xlabel="key", ylabel="query", title=f"tile {number + 1} of {len(steps)}")
    left.grid(False)
    query = min(i + size, T) - 1
    want = scores[query, : query + 1].softmax(-1) @ v[: query + 1]
    m, l, y = (x[-1] for x in state)
    places = np.arange(len(want))
    right.bar(places - 0.2, want.numpy(), 0.4, color=plots.COLOURS[5], label="the answer")
    right.bar(places + 0.2, (y / l).numpy(), 0.4, color=plots.COLOURS[4], label="y / l so far")
    right.set(ylim=(-1.6, 1.6), xticks=[], xlabel=f"query {query}:  m = {m.item():.2f},  l = {l.item():.2f}",
              title="what its row has summed")  # fmt: skip
    plots.legend(right, loc="upper right", ncols=2)
    return fig


def tiles(lab):
    """Softmax, tile by tile: what is computed, what is skipped, and how the answer comes together."""
    draw = torch.Generator().manual_seed(3)
    size, T = 6, 6 * lab.config.tiles
    scores, v = 1.5 * torch.randn(T, T, generator=draw), torch.randn(T, 6, generator=draw)
    steps = steps_of(scores, v, size)
    every = (T // size) ** 2
    lab.animate(lambda n: frame(scores, v, steps, n, size), len(steps), "tiles.gif", seconds=0.9)
    lab.say(f"  {len(steps)} of {every} tiles are computed; {every - len(steps)} lie wholly in the future")
    return {"computed": len(steps), "all": every}


# ---- memory, time, roofline --------------------------------------------------------------------------------


def measured(lab, T):
    """{side: (bytes forward, bytes forward and back, seconds forward)} at one length."""
    H, D = lab.config.heads, lab.config.head_dim
    given = inputs(1, H, H, T, D, device=lab.device, gradients=True)
    plain, found = [x.detach() for x in given], {}
    for name in SIDES:
        forward, both = sides_of(*plain)[name], and_back(sides_of(*given)[name], given)
        held = [profiling.peak_of(call, lab.device) or 0 for call in (forward, both)]
        found[name] = (*held, profiling.shortest(forward, lab.device, 0.05))
    return found


def memory(lab):
    """Peak memory and time against length: one line grows with the square, the others do not."""
    lengths, found = lab.lengths(), {}
    for T in lengths:
        found[T] = measured(lab, T)
        lab.say(
            f"  {T:6,} tokens: "
            + ", ".join(
                f"{name} {held / 1e6:.1f} MB {seconds * 1e3:.0f} ms"
                for name, (held, _, seconds) in found[T].items()
            )
        )
    fig, ((left, right),) = plots.figure(1, 2, width=10, height=4.2)
    for name in SIDES:
        for place, style, what in ((0, "-", ""), (1, "--", ", and back")):
            line = [found[T][name][place] / 1e6 for T in lengths]
            left.plot(lengths, line, style, marker="o", markersize=4, color=COLOURS[name], label=name + what)
        line = [found[T][name][2] * 1e3 for T in lengths]
        right.plot(lengths, line, marker="o", color=COLOURS[name], label=name)
    left.set(xscale="log", yscale="log", xlabel="tokens", ylabel="peak memory, MB")
    right.set(xscale="log", yscale="log", xlabel="tokens", ylabel="time of a forward, ms")
    for ax in (left, right):
        ax.set_xticks(lengths, [f"{T:,}" for T in lengths])
        ax.minorticks_off()
    plots.legend(left, handlelength=1.5)
    plots.legend(right)
    lab.save(fig, "memory.png")
    last = found[lengths[-1]]
    return {f"{name}, {lengths[-1]} tokens, MB": last[name][0] / 1e6 for name in SIDES}


def traffic(T, H, D, size):
    """{side: (FLOPs, bytes to and from main memory)} of a causal forward in float32, by counting.

    materialised: the matrix is written by the product, read and written by the mask and by the softmax, and
    read by the second product. tiled: q and y pass once, k and v once for each tile of queries that needs
    them.
    """
    tiles = T / size * (T / size + 1) / 2
    whole = 4 * H * T * T * D, 4 * H * (4 * T * D + 6 * T * T)
    return {"materialised": whole,
            "tiled": (4 * H * tiles * size**2 * D, 4 * H * (2 * T * D + 2 * tiles * size * D))}  # fmt: skip


def roofline(lab):
    """FLOP/s against FLOPs for each byte of memory traffic, under the roof of this machine."""
    H, D, top = lab.config.heads, lab.config.head_dim, lab.ceilings()
    fig, ((ax,),) = plots.figure(width=7.5)
    x = [2 ** (i / 8) for i in range(-8, 73)]
    roof = [min(top.fp32, top.read * i) / 1e9 for i in x]
    ax.plot(x, roof, color=plots.QUIET, label="the roof of this machine")
    found = {}
    lengths = lab.lengths()[-3:]
    for i, T in enumerate(lengths):
        sides = sides_of(*inputs(1, H, H, T, D, device=lab.device))
        for name, (flops, moved) in traffic(T, H, D, tiled.TILE).items():
            rate = flops / profiling.shortest(sides[name], lab.device, 0.2)
            ax.plot(flops / moved, rate / 1e9, "o", color=COLOURS[name], markersize=5 + 3 * i, alpha=0.7)
            found |= {f"{name}, {T}: FLOPs per byte": flops / moved, f"{name}, {T}: GFLOP/s": rate / 1e9}
            lab.say(f"  {name}, {T:,} tokens: {flops / moved:.1f} FLOPs a byte, {rate / 1e9:.1f} GFLOP/s")
    ax.axvline(RIDGE, color=plots.COLOURS[3], linestyle=":", label="where an H200 stops waiting for memory")
    sizes = ", ".join(f"{T:,}" for T in lengths)
    for name in ("materialised", "tiled"):
        ax.plot([], [], "o", color=COLOURS[name], label=f"{name}, {sizes} tokens: small to large dots")
    ax.set(xscale="log", xlabel="FLOPs for each byte from or to memory", ylabel="GFLOP/s",
           ylim=(0, 1.9 * max(roof)))  # fmt: skip
    plots.legend(ax, loc="upper left")
    lab.save(fig, "roofline.png")
    return found
