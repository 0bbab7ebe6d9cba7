"""What there is to see: a step's kernels on a clock, bytes before and after, the memory of a loss, ONNX."""

import tempfile
from collections import Counter
from pathlib import Path

import torch

from common import plots, profiling

from . import _onnx, chains
from ._sides import call_of, head_and_loss, kernels, models, operations, step_of
from .traffic import Traffic

KINDS = {
    "product": ("mm", "product", "gated", "linear"), "attention": ("scaled_dot", "flash"),
    "norm and sum": ("norm", "pow", "mean", "rsqrt", "add"), "copies": ("copy",),
    "RoPE and SwiGLU": ("rotate", "mul", "sub", "silu", "swiglu", "cat", "cos", "sin", "exp")}  # fmt: skip
COLOURS = dict(zip([*KINDS, "other"], (*plots.COLOURS[:5], "#BBBBBB"), strict=True))


def kind_of(name):
    """Which of KINDS an operation belongs to."""
    bare = name.rpartition("::")[2]
    return next((kind for kind, words in KINDS.items() if any(word in bare for word in words)), "other")


def spans(step, device, times=5):
    """[(name, start, length)] in microseconds of what does work in a step, the quickest of some."""
    found = []
    for _ in range(times):
        seen = profiling.record(step, device).events()
        events = [e for e in seen if e.name.startswith(("aten::", "thirty::"))]
        inner = [e for e in events if not empty(e.name) and all(empty(c.name) for c in e.cpu_children)]
        start = min(e.time_range.start for e in events)
        rows = [(e.name, e.time_range.start - start, e.time_range.elapsed_us()) for e in inner]
        found.append((max(begin + long for _, begin, long in rows), rows))
    return min(found)[1]


def empty(name):
    """Views, and memory that is only found: no kernel."""
    words = (
        "empty",
        "view",
        "slice",
        "as_strided",
        "resolve",
        "resize",
        "unsafe",
        "narrow",
        "chunk",
        "split",
        "item",
        "result_type",
        "transpose",
        "detach",
        "expand",
        "reshape",
        "unbind",
        "select",
        "squeeze",
    )
    bare = name.rpartition("::")[2]
    return bare in ("t", "to", "alias", "lift_fresh") or any(word in bare for word in words)


def timeline(lab):
    """Every kernel of one step of decoding, where it stands on the clock: as it is, and fused."""
    _, plain, ours = models(lab.config.model, lab, kernels(lab.say))
    prompt = torch.arange(lab.config.prompt, device=lab.device)[None] % plain.config.vocab_size
    fig, axes = plots.figure(2, 1, width=11, height=3.8)
    found, last = {}, 0
    for (ax,), (name, model) in zip(axes, (("as it is", plain), ("fused", ours)), strict=True):
        step = step_of(model, prompt)
        rows = spans(step, lab.device)
        for kind in COLOURS:
            bars = [(begin, long) for op, begin, long in rows if kind_of(op) == kind]
            ax.broken_barh(bars, (0, 1), color=COLOURS[kind], label=kind)
        last = max(last, max(begin + long for _, begin, long in rows))
        with Traffic() as count:
            step()
        found |= {f"{name}: kernels": count.kernels.total(), f"{name}: bytes": count.bytes}
        ax.set(yticks=[], title=f"{name}: {count.kernels.total()} kernels, {count.bytes / 1e6:.1f} MB")
        lab.say(f"  {name}: {count.kernels.total()} kernels, {count.bytes / 1e6:.2f} MB; most often "
                + ", ".join(f"{op} {n}" for op, n in count.kernels.most_common(5)))  # fmt: skip
    for (ax,) in axes:
        ax.set_xlim(0, last * 1.02)
    axes[-1, 0].set_xlabel("microseconds, with the profiler looking on")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False,
               fontsize=11)  # fmt: skip
    lab.save(fig, "timeline.png")
    return found


def traffic(lab):
    """Kernels and bytes of each chain for a batch: as PyTorch runs it, and fused."""
    C, V = 64, lab.config.vocabulary
    T, found = lab.config.tokens, {}
    plain, ours = (operations(k, T, C=C, d_ff=2 * C, V=V) for k in (chains.KERNELS, kernels(lab.say)))
    for name in plain:
        rows = []
        for fn, inputs, gradients in ((plain[name][1], *plain[name][2:]), (ours[name][1], *ours[name][2:])):
            with Traffic() as count:
                call_of(fn, inputs, gradients)()
            rows.append((count.kernels.total(), count.bytes))
        found[name] = rows
        (a, b), (c, d) = rows
        lab.say(
            f"  {name:22} {a:3} kernels, {b / 1e6:8.2f} MB; fused {c:3}, {d / 1e6:8.2f} MB: 1/{b / d:.1f}"
        )
    fig, (axes,) = plots.figure(1, 2, width=10.5, height=3.8)
    for ax, place, title in ((axes[0], 0, "kernels"), (axes[1], 1, "bytes, of those of the chain")):
        for i, rows in enumerate(found.values()):
            whole = rows[0][1] if place else 1
            for j, row in enumerate(rows):
                bar = ax.barh(i + 0.4 * j, row[place] / whole, 0.38, color=plots.COLOURS[1 - j],
                              label=("a kernel an operation", "fused")[j] if i == 0 else None)  # fmt: skip
                ax.bar_label(bar, fmt="%.2f" if place else "%d", padding=3, fontsize=10)
        ax.set(title=title, yticks=[i + 0.2 for i in range(len(found))], yticklabels=list(found))
        ax.margins(x=0.15)
        ax.invert_yaxis()
    axes[1].set_yticks([])
    fig.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=11
    )
    lab.save(fig, "traffic.png")
    return {f"{name}, {what}": float(rows[0][i]) / rows[1][i] for name, rows in found.items()
            for i, what in ((0, "kernels"), (1, "bytes"))}  # fmt: skip


def memory(lab):
    """What the head and the loss hold, moment by moment: the whole of the logits, and chunks of them."""
    T, V = lab.config.tokens, lab.config.vocabulary
    *_, given = operations(kernels(lab.say), 4 * T, C=64, V=V)["linear-cross-entropy"][:3]
    ours = operations(kernels(lab.say), 4, C=64)["linear-cross-entropy"][1]
    fig, ((ax,),) = plots.figure(width=8, height=3.8)
    found = {}
    for name, fn in (("all logits at once", head_and_loss), ("in chunks", ours)):
        call = call_of(fn, given, 2)
        call()
        line = profiling.memory(profiling.record(call, lab.device), lab.device)
        share = [at / max(1, line[-1][0]) for at, _ in line]
        ax.step(share, [held / 1e6 for _, held in line], where="post", label=name)
        found[name] = max(held for _, held in line)
        lab.say(f"  {name}: {found[name] / 1e6:.1f} MB at most")
    ax.set(xlabel="from the first to the last moment of forward and backward", ylabel="MB held", xticks=[],
           title=f"{T:,} tokens, {V:,} ids")  # fmt: skip
    plots.legend(ax)
    lab.save(fig, "memory.png")
    return {**found, "ratio": found["in chunks"] / found["all logits at once"]}


def onnx(lab):
    """Nodes of the model's ONNX graph before and after ONNX Runtime's fusion."""
    try:
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError:
        lab.say("  onnxruntime is not installed: it is in the extra export")
        return {}
    _, plain, _ = models(lab.config.model, lab, chains.KERNELS)
    with tempfile.TemporaryDirectory() as folder:
        counts, errors = _onnx.fusion(plain.cpu(), Path(folder))
    for name, kinds in counts.items():
        lab.say(f"  {name:13} {sum(kinds.values()):4} nodes: "
                + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common(6)))  # fmt: skip
    lab.say("  largest error of the logits: " + ", ".join(f"{name} {e:.1e}" for name, e in errors.items()))
    common = [kind for kind, _ in sum(counts.values(), Counter()).most_common(8)]
    fig, ((ax,),) = plots.figure(width=9, height=3.6)
    left = [0] * len(counts)
    for i, kind in enumerate([*common, "others"]):
        some = [kinds[kind] if kind != "others" else sum(n for k, n in kinds.items() if k not in common)
                for kinds in counts.values()]  # fmt: skip
        ax.barh(list(counts), some, left=left, color=(*plots.COLOURS, "#999933", "#DDDDDD")[i], label=kind)
        left = [a + b for a, b in zip(left, some, strict=True)]
    for i, total in enumerate(left):
        ax.annotate(f" {total}", (total, i), va="center", size=11)
    ax.set(xlabel="nodes")
    ax.margins(x=0.1)
    ax.invert_yaxis()
    fig.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=10
    )
    lab.save(fig, "onnx.png")
    return {
        **{f"{name}: nodes": sum(kinds.values()) for name, kinds in counts.items()},
        "error": max(errors.values()),
    }
