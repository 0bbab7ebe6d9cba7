"""What there is to break: a merge that averages, one that overflows, a chunk of one key, too many shares."""

from contextlib import contextmanager
from functools import partial

import torch

from common import plots
from common.generate import Sampling, generate
from common.model import attend, set_attend

from . import chunked, split_k
from ._sides import causal, inputs

PROMPT = "In the morning"


@contextmanager
def merging(function):
    """Within `with`, shares are merged by another function."""
    right = split_k.merge
    split_k.merge = function
    try:
        yield
    finally:
        split_k.merge = right


def mean(ys, lses):
    """`parts.merge`, but every part counts as much as every other."""
    return ys.mean(0), lses.logsumexp(0)


def raw(ys, lses):
    """`parts.merge`, but exp of the weights as they are."""
    weights = lses.exp()
    return (weights * ys).sum(0) / weights.sum(0), lses.logsumexp(0)


@torch.no_grad()
def average(lab):
    """Merge without the log-sum-exp: each part is right, and their mean is no attention."""
    model, tokenizer = lab.base()
    greedy = Sampling(max_tokens=lab.config.max_tokens, temperature=0.0)
    ids, found = tokenizer.encode(PROMPT), {}

    def text(fn):
        answer = generate(set_attend(model, fn), [ids], greedy, tokenizer=tokenizer)[0]
        return answer.ids, answer.text.replace("\n", " ")

    want, said = text(attend)
    lab.say(f"  torch's attention: {PROMPT}{said}")
    for name, merge in (("merged", split_k.merge), ("averaged", mean)):
        with merging(merge):
            got, said = text(partial(split_k.attend, splits=3))
        found[f"{name}: tokens that agree"] = sum(a == b for a, b in zip(got, want, strict=False)) / len(want)
        lab.say(f"  three shares, {name}: {PROMPT}{said}")
    fig, ((ax,),) = plots.figure(height=3.8)
    counts = [1, 2, 4, 8, 16, 32, 64]
    for sharp, colour in ((0.5, plots.COLOURS[5]), (1, plots.COLOURS[0]), (3, plots.COLOURS[1])):
        q, k, v = inputs(1, 8, 8, 1, 512, 32, device=lab.device)
        reach = torch.tensor([[512]], device=lab.device)
        right = split_k.split(sharp * q, k, v, reach, splits=1)
        with merging(mean):
            off = [((split_k.split(sharp * q, k, v, reach, splits=n) - right).norm() / right.norm()).item()
                   for n in counts]  # fmt: skip
        ax.plot(counts, [100 * share for share in off], "o-", color=colour, label=f"scores of spread {sharp}")
        found |= {f"spread {sharp}: off with {counts[-1]}": off[-1], f"spread {sharp}: off with 1": off[0]}
    ax.set(xscale="log", xlabel="shares, averaged", ylabel="error, % of the answer", ylim=(-5, None))
    ax.set_xticks(counts, map(str, counts))
    ax.minorticks_off()
    plots.legend(ax)
    lab.save(fig, "average.png")
    return found


def overflow(lab):
    """Merge by exp of the weights as they are: right while scores are small, then NaN."""
    spreads, found = [1, 2, 5, 10, 15, 20, 25, 30, 40], {"softmax of the weights": [], "exp as they are": []}
    for spread in spreads:
        q, k, v = inputs(1, 16, 16, 1, 512, 32, device=lab.device)
        reach = torch.tensor([[512]], device=lab.device)
        want = split_k.split((spread * q).double(), k.double(), v.double(), reach, splits=1)
        for name, merge in zip(found, (split_k.merge, raw), strict=True):
            with merging(merge):
                y = split_k.split(spread * q, k, v, reach, splits=4)
            found[name].append(((y - want).abs() < 1e-3).float().mean().item())
        lab.say(f"  spread {spread:3}: " + ", ".join(f"{name} {line[-1]:.0%} right"
                                                     for name, line in found.items()))  # fmt: skip
    fig, ((ax,),) = plots.figure(height=3.6)
    for (name, line), colour in zip(found.items(), plots.COLOURS, strict=False):
        ax.plot(spreads, [100 * share for share in line], "o-", color=colour, label=name)
    ax.set(xlabel="spread of the scores", ylabel="right numbers, %", ylim=(-5, 108))
    plots.legend(ax, loc="lower left")
    lab.save(fig, "overflow.png")
    return {f"{name}, spread {spreads[-1]}": line[-1] for name, line in found.items()}


def one(lab):
    """Chunks of one key: still right, slower by orders, and with more memory than the matrix itself."""
    T = min(lab.config.tokens, 256)
    q, k, v = inputs(1, 1, 1, T, T, lab.config.head_dim, device=lab.device)
    sizes, reach, found = lab.powers(1, T), causal(T, lab.device), {}
    calls = {n: partial(chunked.chunked, q, k, v, reach, queries=T, keys=n) for n in sizes}
    times = [lab.milliseconds(call, 0.05) for call in calls.values()]
    held = [lab.peak(call) for call in calls.values()]
    want, matrix = calls[sizes[-1]](), 4 * T * T / 1e6
    off = [(call() - want).abs().max().item() for call in calls.values()]
    fig, ((left, right),) = plots.figure(1, 2, width=10, height=3.8)
    for ax, line, what, colour in ((left, times, "time, ms", plots.COLOURS[1]),
                                   (right, held, "peak memory, MB", plots.COLOURS[0])):  # fmt: skip
        ax.plot(sizes, line, "o-", color=colour)
        ax.set(xscale="log", yscale="log", xlabel="keys in a chunk", ylabel=what)
        ax.set_xticks(sizes, map(str, sizes))
        ax.minorticks_off()
    plots.level(right, matrix, "the scores of all at once")
    fig.suptitle(f"{T} tokens, one head of {lab.config.head_dim}, all queries in one chunk", fontsize=13)
    lab.save(fig, "one.png")
    lab.say(f"  one key to a chunk: {times[0]:.0f} ms and {held[0]:.2f} MB, where all scores are "
            f"{matrix:.2f} MB; all in one: {times[-1]:.1f} ms and {held[-1]:.2f} MB; never more than "
            f"{max(off):.0e} apart")  # fmt: skip
    found |= {"ms": times[0], "ms, whole": times[-1], "MB": held[0], "MB, whole": held[-1], "off": max(off)}
    return found


def many(lab):
    """More and more shares of one cache, for the same workers: a little gain, then only overhead."""
    S, D = lab.config.cache, 2 * lab.config.head_dim
    q, k, v = inputs(1, 4, 1, 1, S, D, device=lab.device)
    reach, counts = torch.tensor([[S]], device=lab.device), lab.powers(1, min(S, 4096))
    times = [lab.milliseconds(partial(split_k.split, q, k, v, reach, splits=n)) for n in counts]
    answers = [(torch.randn(n, 1, 1, 4, D, device=lab.device), torch.randn(n, 1, 1, 4, 1, device=lab.device))
               for n in counts]  # fmt: skip
    merges = [lab.milliseconds(partial(split_k.merge, *some), 0.05) for some in answers]
    fig, ((ax,),) = plots.figure(height=4)
    ax.plot(counts, times, "o-", color=plots.COLOURS[1], label="a step")
    ax.plot(counts, merges, "o-", color=plots.COLOURS[0], label="of it, the merge")
    ax.set(xscale="log", yscale="log", xlabel=f"shares of {S:,} keys", ylabel="time, ms")
    ax.set_xticks(counts[::2], [f"{n:,}" for n in counts[::2]])
    ax.minorticks_off()
    plots.legend(ax)
    lab.save(fig, "many.png")
    best = counts[times.index(min(times))]
    lab.say(f"  {torch.get_num_threads()} threads: best with {best} shares, {min(times):.2f} ms; one share "
            f"{times[0]:.2f} ms, {counts[-1]:,} shares {times[-1]:.2f} ms, {merges[-1]:.2f} of them to merge")
    return {"best": best, "ms at best": min(times), "ms, one": times[0], "ms, most": times[-1]}
