"""See: who is loud among keys and values, which axis a scale should follow, where the error lies, what it
costs."""

import math

import torch

from common import plots
from common.plots import COLOURS, GRID, QUIET
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for

from ._lab import answers, facts, forms_for, kind
from .kv_quant import QuantizedCache, floats
from .rows import Format, dequantize, key_rows, keys_of, per_tensor, quantize, value_rows

WAYS = ("one scale", "a scale a token", "a scale a channel")


def rounded(x, bits, way, group=32):
    """x (B, K, S, D) there and back; channels and tokens in groups of `group`, S a multiple of it."""
    if way == WAYS[0]:
        return per_tensor(x, bits)
    if way == WAYS[1]:
        return dequantize(quantize(value_rows(x, min(group, x.size(3))), bits)).flatten(-2)
    return keys_of(dequantize(quantize(key_rows(x, group), bits)))


def whole(x, group=32):
    """As many tokens of x (B, K, S, D) as whole groups hold."""
    return x[:, :, : x.size(2) // group * group]


def off(x, y):
    """Size of the difference, relative to x."""
    return float((y - x).norm() / x.norm())


def outliers(lab) -> dict:
    """Keys and values of one layer, channel by channel and token by token: who is loud?"""
    def loudness(x):  # (K * D, S)
        return x[0].abs().transpose(1, 2).flatten(0, 1)

    def uneven(x, axis):  # the loudest of its kind, to the middle one
        mean = loudness(x).mean(axis)
        return float(mean.max() / mean.median())

    layer = max(range(len(lab.seen)), key=lambda i: uneven(lab.seen[i][2], 1))
    _, _, k, v = lab.seen[layer]
    fig, axes = plots.figure(1, 2, width=11.0, height=4.4)
    for ax, (name, x) in zip(axes[0], (("Keys", k), ("Values", v)), strict=True):
        table = loudness(x)[:128, :128]
        ax.imshow(table.cpu().numpy(), cmap="Blues", aspect="auto", vmin=0, vmax=float(table.quantile(0.995)),
                  interpolation="nearest")  # fmt: skip
        ax.grid(False)
        ax.set(title=f"{name} of layer {layer}, absolute values", xlabel="token", ylabel="channel")
    lab.save(fig, "outliers.png")
    found = {}
    for name, at in (("keys", 2), ("values", 3)):
        for kind_of, axis in (("channel", 1), ("token", 0)):
            ratios = [uneven(layer[at], axis) for layer in lab.seen]
            found[f"{name}, loudest {kind_of}"] = sorted(ratios)[len(ratios) // 2]
        channel, token = found[f"{name}, loudest channel"], found[f"{name}, loudest token"]
        lab.say(f"  {name:6}: the loudest channel is {channel:.1f} times the middle one, the loudest token "
                f"{token:.1f} times (median of layers)")  # fmt: skip
    return found


def axes(lab) -> dict:
    """Which axis should a scale follow? Scores with rounded keys, and answers with rounded values."""
    found = {}
    fig, panels = plots.figure(1, 2, width=11.0, height=4.2)
    for ax, what in zip(panels[0], ("keys", "values"), strict=True):
        groups = {}
        for bits in (8, 4, 2):
            groups[f"{bits} bits"] = {}
            for way in WAYS:
                errors = []
                for q, _, k, v in lab.seen:
                    q, k, v = (whole(x) for x in (q, k, v))
                    k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
                    right = q @ k.transpose(-2, -1)
                    if what == "keys":
                        errors.append(off(right, q @ rounded(k, bits, way).transpose(-2, -1)))
                    else:
                        future = torch.ones(right.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
                        p = (right * q.size(-1) ** -0.5).masked_fill(future, -math.inf).softmax(-1)
                        errors.append(off(p @ v, p @ rounded(v, bits, way)))
                groups[f"{bits} bits"][way] = 100 * sum(errors) / len(errors)
                found[f"{what}, {bits} bits, {way}"] = groups[f"{bits} bits"][way]
        plots.bars(ax, groups)
        ax.set(title=f"Error from rounded {what}", ylabel="% of the scores" if what == "keys" else "% of the "
               "answer", yscale="log")  # fmt: skip
        row = groups["2 bits"]
        lab.say(f"  {what:6}, 2 bits: " + ", ".join(f"{way} {row[way]:.1f} %" for way in WAYS))
    plots.legend(panels[0][1], loc="upper left")
    lab.save(fig, "axes.png")
    return found


def position(lab) -> dict:
    """How far off is the key at each place of the cache? The past by its bits, the window not at all."""
    _, _, k, v = lab.seen[-1]
    found, window = {}, 32
    fig, ((ax,),) = plots.figure(width=8.0, height=4.2)
    for colour, (name, form) in zip(COLOURS, forms_for(k.size(3), window).items(), strict=False):
        cache = QuantizedCache(1, k.size(1), k.size(3), k.size(2), k, form)
        cache.update(k, v, torch.arange(k.size(2), device=k.device))
        error = (floats(*cache.past)[0] - k).pow(2).mean((0, 1, 3)).sqrt().cpu()  # (S,)
        bound = cache.past[0].bound.amax((0, 1, 3, 4)).repeat_interleave(form.group).cpu()
        ax.plot(range(cache.rounded), error[: cache.rounded], color=colour, label=name)
        ax.plot(range(cache.rounded), bound, color=colour, linestyle=":")
        found[f"{name}, error"] = float(error[: cache.rounded].mean()) if cache.rounded else 0.0
        found[f"{name}, window"] = float(error[cache.rounded :].max())
        lab.say(f"  {name}: off by {found[f'{name}, error']:.4f} on average in {cache.rounded} places, by "
                f"{found[f'{name}, window']} in the {k.size(2) - cache.rounded} newest")  # fmt: skip
    ax.axvspan(k.size(2) - window, k.size(2), color=GRID)
    ax.set(title="Error of keys by place, and its bound (dotted); grey: the window", xlabel="position",
           ylabel="root mean square", yscale="log")  # fmt: skip
    plots.legend(ax, loc="center", bbox_to_anchor=(0.5, 0.33), ncols=3)
    lab.save(fig, "position.png")
    return found


def bits(lab) -> dict:
    """What it costs and what it saves: perplexity on unseen text against bytes, window by window."""
    D, found = lab.model.config.head_dim, {}
    fig, ((ax,),) = plots.figure(width=8.0, height=4.4)
    for colour, (name, form) in zip(COLOURS, forms_for(D).items(), strict=False):
        shares, costs = [], []
        for window in lab.config.windows:
            own = Format(form.bits, form.group, window)
            change = 100 * lab.change(lab.quantised(own))
            T = lab.pages.size(1)
            kept = QuantizedCache(1, 1, D, T, torch.empty(0, dtype=torch.float16), own).nbytes / (4 * T * D)
            shares.append(100 * kept)
            costs.append(change)
            found[f"{name}, window {window}"] = change
            lab.say(f"  {name}, window {window:3}: {kept:6.1%} of float16 at {T} tokens, perplexity "
                    f"{change:+.3f} %")  # fmt: skip
        ax.plot(shares, costs, "o-", color=colour, label=name)
        ax.annotate(f"window {lab.config.windows[0]}", (shares[0], costs[0]), xytext=(0, 8),
                    textcoords="offset points", ha="center", size=10, color=QUIET)  # fmt: skip
    plots.level(ax, 0, "full cache")
    ax.set(title="Perplexity against memory", xlabel="% of a float16 cache", ylabel="more perplexity, %")
    plots.legend(ax)
    lab.save(fig, "bits.png")
    return found


def memory(lab) -> dict:
    """Scales are not free: what a token takes of float16, by the size of a head; and what fits."""
    sizes, found = (16, 32, 64, 128, 256), {}
    forms = {"8 bits": Format(8, 256), "4 bits": Format(4, 64), "2 bits": Format(2, 32)}
    fig, ((left, right),) = plots.figure(1, 2, width=11.0, height=4.2)
    for colour, (name, form) in zip(COLOURS, forms.items(), strict=False):
        shares = [100 * form.share(D) for D in sizes]
        left.plot(sizes, shares, "o-", color=colour, label=name)
        left.axhline(100 * form.bits / 16, color=colour, linewidth=1, linestyle=(0, (4, 3)))
        found |= {f"{name}, heads of {D}": share for D, share in zip(sizes, shares, strict=True)}
        row = (f"{share:.1f} % (heads of {D})" for D, share in zip(sizes, shares, strict=True))
        lab.say(f"  {name}: " + ", ".join(row))
    left.set(title="A token's share of float16 (dashed: without scales)", xlabel="channels of a head",
             ylabel="%", ylim=(0, 70))  # fmt: skip
    left.set_xscale("log", base=2)
    left.set_xticks(sizes, [str(D) for D in sizes])
    gigabytes = [2**i for i in range(6)]
    lines = {"float16": 2 * 8 * 128 * 2 * 32} | {name: 32 * form.bytes_per_token(8, 128)
                                                 for name, form in forms.items()}  # fmt: skip
    for colour, (name, per_token) in zip((QUIET, *COLOURS), lines.items(), strict=False):
        right.plot(gigabytes, [g * 1e6 / per_token for g in gigabytes], "o-", color=colour, label=name)
    right.set(title="Context of an 8B model's shape", xlabel="GB for the cache", ylabel="thousand tokens")
    right.set(xscale="log", yscale="log")
    plots.legend(right)
    lab.save(fig, "memory.png")
    return found


def recall(lab) -> dict:
    """A fact at the start, asked for at the end: is it still found among the rounded keys?"""
    model, found = lab.lookup, {}
    prompts, right = facts(model, lab.config.facts, lab.config.far)

    def score(make):
        return float((answers(model, prompts, right.size(1), make) == right).all(1).float().mean())

    forms = {"8 bits": Format(8, 64), "4 bits": Format(4, 64), "2 bits": Format(2, 32)}
    ways = {"full cache": lambda size: caches_for(model, KVCache, len(prompts), size)}
    for name, form in forms.items():
        ways[name] = lambda size, form=form: caches_for(model, kind(form), len(prompts), size)
    for way in WAYS:
        ways[f"4 bits, keys with {way}"] = lambda size, way=way: lab.rounding(
            lambda k, *_: rounded(k, 4, way), of=model)()  # fmt: skip
    for name, make in ways.items():
        found[name] = score(make)
        lab.say(f"  {name:34} {found[name]:4.0%} of {len(prompts)} facts, {lab.config.far} tokens back")
    return found
