"""See: what the arithmetic predicts and what the clock says, by length; which keys are computed and which
are read; two modes compared as they should be."""

import statistics

import numpy as np
import torch

from common import plots
from common.profiling import ceilings

from ._modes import MODES, dual, measure
from ._theory import cost_of, published
from .kv_cache import KVCache, caches_for

SHADES = {"no cache": plots.COLOURS[1], "cache": plots.COLOURS[0]}


def theory(lab) -> dict:
    """Operations of each step and of whole answers, with and without a cache; and a formula that misleads."""
    cost, context = cost_of(lab.timed), lab.config.context
    lengths = np.unique(np.geomspace(4, context, 40).astype(int))
    fig, ((step, total, ratio),) = plots.figure(1, 3, width=15.0, height=4.4)
    for mode, fed in (("no cache", lambda n: n), ("cache", lambda n: 1)):
        whole = [cost.flops(fed(n), n) / 1e9 for n in map(int, lengths)]
        looks = [cost.attention(fed(n), n) / 1e9 for n in map(int, lengths)]
        step.plot(lengths, whole, color=SHADES[mode], label=f"{mode}, all of it")
        step.plot(lengths, looks, color=SHADES[mode], linestyle=":", label=f"{mode}, attention only")
    step.set(title="Operations of one step", xlabel="tokens so far", ylabel="10⁹ operations", yscale="log")
    prompt = max(1, context // 32)
    new = [int(n) for n in lengths if n + prompt <= context]
    sums = np.array([cost.totals(prompt, n) for n in new]) / 1e9
    for column, mode in enumerate(MODES):
        total.plot(new, sums[:, column], color=SHADES[mode], label=mode)
    total.set(title=f"Of an answer to {prompt} tokens", xlabel="new tokens", ylabel="10⁹ operations")
    total.set_yscale("log")
    ratio.plot(new, sums[:, 0] / sums[:, 1], label="all operations")
    ratio.plot(new, [published(prompt, n) for n in new], linestyle="--", label="G L / (L + G - 1)")
    ratio.set(title="Times fewer operations", xlabel="new tokens")
    for ax in (step, total, ratio):
        ax.set(xscale="log")
        plots.legend(ax)
    lab.save(fig, "theory.png")
    lab.say(f"  {prompt} + {new[-1]} tokens: {sums[-1, 0] / sums[-1, 1]:.0f} times fewer operations; the "
            f"formula that keeps the context at {prompt} says {published(prompt, new[-1]):.0f}")  # fmt: skip
    return {"times fewer operations": sums[-1, 0] / sums[-1, 1], "formula": published(prompt, new[-1])}


@torch.no_grad()
def length(lab) -> dict:
    """Milliseconds for a token, speed-up and memory against the length of the text: measured and bound."""
    model, context = lab.timed, lab.config.context
    small = {"size": min(2048, 2 * context), "megabytes": min(256, context // 4 or 1)}  # for a smoke test
    cost, machine = cost_of(model), ceilings(lab.device, seconds=0.3 if context >= 1024 else 0.02, **small)
    lengths = [int(n) for n in np.unique(np.geomspace(8, context - 1, 8).astype(int))]
    times = {mode: [] for mode in MODES}
    for n in lengths:
        tokens, caches = lab.prompt(n), caches_for(model, KVCache, 1, n)
        model.hidden(tokens[:, :-1], caches=caches)

        def step(caches=caches, tokens=tokens, n=n):
            for cache in caches:
                cache.length = n - 1
            return model(tokens[:, -1:], caches=caches)

        times["no cache"].append(lab.seconds(lambda t=tokens: model.head(model.hidden(t)[:, -1]), 3))
        times["cache"].append(lab.seconds(step, 9))
        lab.say(f"  {n:5} tokens: " + "   ".join(f"{m} {1e3 * times[m][-1]:8.2f} ms" for m in MODES))
    fig, ((left, middle, right),) = plots.figure(1, 3, width=15.0, height=4.4)
    for mode in MODES:
        bound = [cost.seconds(n if mode == "no cache" else 1, n, machine, mode == "cache") for n in lengths]
        left.plot(lengths, [1e3 * s for s in times[mode]], "o-", color=SHADES[mode], label=mode)
        left.plot(lengths, [1e3 * s for s in bound], ":", color=SHADES[mode], label=f"{mode}, bound")
    left.set(title="One more token", xlabel="tokens so far", ylabel="ms", xscale="log", yscale="log")
    gain = [a / b for a, b in zip(*times.values(), strict=True)]
    fewer = [cost.flops(n, n) / cost.flops(1, n) for n in lengths]
    middle.plot(lengths, gain, "o-", label="time, measured")
    middle.plot(lengths, fewer, ":", label="operations")
    for level in (1, 10, 30):
        plots.level(middle, level, f"{level}x")
    middle.set(title="Speed-up of that token", xlabel="tokens so far", xscale="log", yscale="log")
    right.plot(lengths, [cost.kv * n / 1e6 for n in lengths], color=SHADES["cache"], label="cache")
    plots.level(right, cost.weights / 1e6, "the weights")
    right.set(title="Memory, batch 1", xlabel="tokens so far", ylabel="MB", ylim=(0, None))
    for ax in (left, middle, right):
        plots.legend(ax)
    lab.save(fig, "length.png")
    return {f"speed-up at {lengths[0]}": gain[0], f"speed-up at {lengths[-1]}": gain[-1]}


def view(lab) -> dict:
    """Hits and misses: of every step, which keys are computed (miss) and which are read (hit)."""
    T, n = lab.room(8, 16)
    tokens, share = lab.text(T), {}
    fig, axes = plots.figure(1, 2, width=11.0, height=4.6)
    for ax, mode in zip(axes[0], MODES, strict=True):
        seen = measure(lab.model, tokens, n, mode).seen
        table = np.full((n, T + n - 1), np.nan)
        for i, fed in enumerate(seen.fed):
            held = seen.held[i] or 0
            table[i, :held], table[i, held : held + fed] = 0.25, 1.0
        ax.pcolormesh(table, cmap="Blues", vmin=0, vmax=1.15, edgecolor="white", linewidth=0.6)
        ax.invert_yaxis()
        ax.grid(False)
        share[mode] = float(np.nansum(table == 0.25) / np.isfinite(table).sum())
        ax.set(title=f"{mode}: {share[mode]:.0%} hits", xlabel="position", ylabel="step")
        lab.say(f"  {mode:9} computed {sum(seen.fed):5} keys a head and layer, read {share[mode]:.0%} of "
                "what it looked at")  # fmt: skip
    axes[0][0].text(0.98, 0.95, "dark: computed\nlight: read", transform=axes[0][0].transAxes, ha="right",
                    va="top", color=plots.INK)  # fmt: skip
    lab.save(fig, "view.png")
    return {f"hits, {mode}": value for mode, value in share.items()}


def modes(lab) -> dict:
    """The two modes as they should be compared: each prompt once in each, alternating, warmed, watched."""
    sizes = [T for _ in range(lab.config.each) for T in lab.config.prompts]
    runs = dual(lab.timed, [lab.prompt(T, number) for number, T in enumerate(sizes)], lab.config.new, lab.say)
    rate = {m: [lab.config.new / run.total for run in runs[m]] for m in MODES}
    fig, ((speed, delay), (scatter, totals)) = plots.figure(2, 2, width=11.0, height=8.0)
    for ax, values, words in ((speed, rate, "tokens/s"),
                              (delay, {m: [1e3 / r for r in rate[m]] for m in MODES}, "ms/token")):
        boxes = ax.boxplot([values[m] for m in MODES], tick_labels=MODES, widths=0.5, patch_artist=True,
                           medianprops={"color": plots.INK})  # fmt: skip
        for box, mode in zip(boxes["boxes"], MODES, strict=True):
            box.set(facecolor=SHADES[mode], alpha=0.6)
        ax.set(ylabel=words, ylim=(0, None))
    speed.set_title("Throughput of all runs")
    delay.set_title("Latency of all runs")
    edges = np.histogram_bin_edges([run.total for m in MODES for run in runs[m]], bins=20)
    for mode in MODES:
        scatter.plot(sizes, rate[mode], "o", color=SHADES[mode], alpha=0.7, label=mode)
        totals.hist([run.total for run in runs[mode]], bins=edges, color=SHADES[mode], alpha=0.6, label=mode)
    scatter.set(title="Throughput and prompt", xlabel="tokens of the prompt", ylabel="tokens/s")
    scatter.set_ylim(bottom=0)
    totals.set(title="Time of a whole run", xlabel="seconds", ylabel="runs")
    plots.legend(scatter)
    plots.legend(totals)
    lab.save(fig, "modes.png")
    found = {}
    for T in lab.config.prompts:
        pair = [statistics.median(run.total for run, size in zip(runs[m], sizes, strict=True) if size == T)
                for m in MODES]  # fmt: skip
        found[f"{T} + {lab.config.new} tokens"] = pair[0] / pair[1]
        lab.say(f"  {T:4} + {lab.config.new} tokens: {pair[0] / pair[1]:5.2f} times as fast")
    return found
