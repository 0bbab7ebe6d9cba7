"""What there is to see: parts and their weights, memory against chunks and length, waves, bandwidth."""

import math
from functools import partial

import numpy as np
import torch

from common import plots
from phase03_core_inference.project09_flash_attention.tiled import materialised

from . import chunked, parts, split_k
from ._sides import and_back, bytes_of, causal, counted, inputs, rows_of, steps_of

COLOURS = dict(zip(("materialised", "torch's SDPA", "tiles of project 9", "chunked"),
                   (plots.COLOURS[1], plots.COLOURS[6], plots.COLOURS[3], plots.COLOURS[0]),
                   strict=True))  # fmt: skip
STEPS = dict(zip(("SDPA, heads repeated", "torch's SDPA", "unsplit", "torch's own threads", "split"),
                 (plots.COLOURS[1], plots.COLOURS[6], plots.COLOURS[4], plots.COLOURS[5], plots.COLOURS[0]),
                 strict=True))  # fmt: skip


def parts_of(lab):
    """One query's keys in four parts: what each answers, what it weighs, and that the merge is the answer."""
    draw, N, size, D = torch.Generator().manual_seed(5), 4, 10, 6
    q, k = torch.randn(1, 8, generator=draw), torch.randn(N * size, 8, generator=draw)
    v, q = torch.randn(N * size, D, generator=draw), 1.2 * q
    ys, lses = map(torch.stack, zip(*(parts.part(q, k[i : i + size], v[i : i + size])
                                      for i in range(0, N * size, size)), strict=True))  # fmt: skip
    (y, lse), weights, want = parts.merge(ys, lses), lses.softmax(0).flatten(), (q @ k.T).softmax(-1) @ v
    fig, (axes,) = plots.figure(1, 3, width=11.5, height=3.8)
    left, middle, right = axes
    scores, places = (q @ k.T).flatten(), np.arange(D)
    for i in range(N):
        keys = range(i * size, (i + 1) * size)
        left.bar(keys, scores[list(keys)].exp().numpy(), color=plots.COLOURS[i], width=0.9)
        middle.bar(i, weights[i].item(), color=plots.COLOURS[i])
        at = i, weights[i].item()
        middle.annotate(f"lse {lses[i].item():.2f}", at, ha="center", va="bottom", size=11)
        right.bar(places - 0.36 + 0.12 * i, ys[i, 0].numpy(), 0.12, color=plots.COLOURS[i], alpha=0.55)
    right.bar(places + 0.12, y[0].numpy(), 0.14, color=plots.INK, label="merged")
    right.plot(places + 0.12, want[0].numpy(), "o", color="white", markeredgecolor=plots.INK, markersize=6,
               label="attention to all keys")  # fmt: skip
    left.set(title="exp of the scores, by key", xlabel="key")
    middle.set(title="what each part weighs", xlabel="part", xticks=range(N), ylim=(0, 1))
    right.set(title="the parts' answers, and the merge", xlabel="number of the answer", xticks=places)
    right.margins(y=0.35)
    plots.legend(right, loc="upper right")
    lab.save(fig, "parts.png")
    off = (y - want).abs().max().item()
    lab.say(f"  weights {', '.join(f'{w:.2f}' for w in weights.tolist())}; merged, {off:.0e} off attention")
    return {"off": off, "lse": lse.item()}


# ---- memory ------------------------------------------------------------------------------------------------


def ticks_of(ax):
    """1, 2, 5 and 10 times as much, written out, on an axis y of logarithms."""
    low, high = ax.get_ylim()
    ticks = [n * 10.0**e for e in range(-9, 9) for n in (1, 2, 5)]
    ax.set_yticks([y for y in ticks if low <= y <= high], [f"{y:,g}" for y in ticks if low <= y <= high])
    ax.minorticks_off()


def memory(lab):
    """Peak memory against the size of a chunk of keys: small chunks leave many answers, large ones scores."""
    T, D = lab.config.tokens, lab.config.head_dim
    sizes, given = lab.powers(16, T), inputs(1, 1, 1, T, T, D, device=lab.device, gradients=True)
    plain, reach = [x.detach() for x in given], causal(T, lab.device)
    look = torch.ones(T, T, dtype=torch.bool, device=lab.device).tril()
    fig, ((ax,),) = plots.figure(width=8, height=4.6)
    found, queries = {}, min(chunked.QUERIES, T // 2)
    for back, x, colour in ((False, plain, plots.COLOURS[0]), (True, given, plots.COLOURS[1])):

        def way(call, back=back):
            return and_back(call, given) if back else call

        what = "there and back" if back else "forward"
        calls = [partial(chunked.chunked, *x, reach, queries=queries, keys=n) for n in sizes]
        held = [lab.peak(way(call)) for call in calls]
        matrix = lab.peak(way(lambda x=x: materialised(*x, look)))
        ax.plot(sizes, held, "o-", color=colour, label=f"{what}: measured")
        expected = [counted(T, D, queries, n, back) / 1e6 for n in sizes]
        ax.plot(sizes, expected, "--", color=colour, linewidth=1, label=f"{what}: counted")
        ax.axhline(matrix, color=colour, linewidth=1.5, linestyle=":", label=f"{what}: the matrix")
        best = min(held)
        lab.say(f"  {what}: matrix {matrix:.1f} MB; chunks {best:.2f} MB at best, with "
                f"{sizes[held.index(best)]} keys; with {sizes[0]}, {held[0]:.1f} MB, with {T}, "
                f"{held[-1]:.1f} MB")  # fmt: skip
        found |= {f"{what}: matrix, MB": matrix, f"{what}: best, MB": best, f"{what}: smallest, MB": held[0],
                  f"{what}: whole rows, MB": held[-1]}  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=f"keys in a chunk ({queries} queries)", ylabel="peak, MB",
           title=f"{T:,} tokens, one head of {D}")  # fmt: skip
    ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ticks_of(ax)
    plots.legend(ax, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    lab.save(fig, "memory.png")
    return found


def length(lab):
    """Peak memory and time against length, there and back: one square, the rest straight."""
    lengths, found = lab.powers(64, lab.config.longest)[-5:], {}
    fig, ((left, right),) = plots.figure(1, 2, width=10, height=4.4)
    for T in lengths:
        given = inputs(1, 2, 1, T, T, lab.config.head_dim, device=lab.device, gradients=True)
        for name, call in rows_of(*given).items():
            both = and_back(call, given)
            found.setdefault(name, []).append((lab.peak(both), lab.milliseconds(both, 0.1)))
    for name, line in found.items():
        held, times = zip(*line, strict=True)
        left.plot(lengths, held, "o-", color=COLOURS[name], markersize=4, label=name)
        right.plot(lengths, times, "o-", color=COLOURS[name], markersize=4)
        lab.say(f"  {name:20} {lengths[-1]:,} tokens: {held[-1]:8.1f} MB {times[-1]:8.0f} ms")
    left.set(ylabel="peak memory, MB")
    right.set(ylabel="time, ms")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log", xlabel="tokens, there and back")
        ax.set_xticks(lengths, [f"{T:,}" for T in lengths])
        ticks_of(ax)
    plots.legend(left)
    lab.save(fig, "length.png")
    return {f"{name}, {what}": line[-1][i] for name, line in found.items()
            for i, what in enumerate(("MB", "ms"))}  # fmt: skip


# ---- shares ------------------------------------------------------------------------------------------------


def waves(lab):
    """How much of a GPU is at work against the number of shares: waves, and the last one half empty."""
    workers, blocks, shares = 132, 512, range(1, 193)
    fig, ((left, right),) = plots.figure(1, 2, width=10, height=4)
    found = {}
    for rows, colour in ((1, plots.COLOURS[0]), (8, plots.COLOURS[1]), (40, plots.COLOURS[2])):
        time = [cost(rows, blocks, workers, n) for n in shares]
        busy = [100 * rows * blocks / (t * workers) for t in time]
        chosen = split_k.how_many(rows, blocks, workers)
        best = 100 * rows * blocks / (workers * cost(rows, blocks, workers, chosen))
        left.plot(shares, busy, color=colour, linewidth=1)
        label = f"{rows} key head{'s' * (rows > 1)}: {chosen} shares"
        right.plot(shares, [time[0] / t for t in time], color=colour, linewidth=1, label=label)
        left.plot(chosen, best, "o", color=colour, markersize=8)
        right.plot(chosen, time[0] / time[chosen - 1], "o", color=colour, markersize=8)
        lab.say(f"  {rows} rows x key heads: unsplit {busy[0]:.0f} % of {workers} workers busy, with "
                f"{chosen} shares {best:.0f} %")  # fmt: skip
        found |= {f"{rows}: shares": chosen, f"{rows}: unsplit, % busy": busy[0], f"{rows}: % busy": best}
    left.set(ylabel="% of the workers busy", ylim=(0, 105))
    right.set(ylabel="times as fast as unsplit")
    fig.suptitle(f"{workers} workers, {blocks} blocks of keys", fontsize=13)
    for ax in (left, right):
        ax.set(xscale="log", xlabel="shares")
        ax.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], map(str, (1, 2, 4, 8, 16, 32, 64, 128)))
        ax.minorticks_off()
    plots.legend(right, loc="upper left")
    lab.save(fig, "waves.png")
    return found


def cost(rows, blocks, workers, n):
    """Blocks that one after the other pass through the busiest worker."""
    return math.ceil(rows * n / workers) * math.ceil(blocks / n)


def bandwidth(lab):
    """One token over longer and longer caches: how many bytes of keys and values a second each side reads."""
    sizes, found = lab.powers(64, lab.config.cache)[-6:], {}
    top = lab.reading() / 1e9
    for S in sizes:
        q, k, v = inputs(1, 4, 1, 1, S, 2 * lab.config.head_dim, device=lab.device)
        for name, call in steps_of(q, k, v).items():
            rate = bytes_of(k, v) / lab.milliseconds(call, 0.15) / 1e6
            found.setdefault(name, []).append(rate)
    fig, ((ax,),) = plots.figure(width=8, height=4.6)
    for name, line in found.items():
        ax.plot(sizes, line, "o-", color=STEPS[name], label=name)
        lab.say(f"  {name:20} {sizes[-1]:,} keys: {line[-1]:6.1f} GB/s of {top:.1f}")
    plots.level(ax, top, "what this machine reads from memory")
    ax.set(xscale="log", xlabel="keys; one row, one key head, 4 query heads", ylabel="GB/s of keys, values")
    ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ax.minorticks_off()
    ax.set_ylim(0, 1.12 * max(top, *(max(line) for line in found.values())))
    plots.legend(ax, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    lab.save(fig, "bandwidth.png")
    return {"machine": top, **{name: line[-1] for name, line in found.items()}}
