"""What there is to see: the graph before and after, its nodes pass by pass, time pass by pass, the stacks."""

import statistics

import torch

from common import plots
from common.model import GPT

from ._lab import fastest, paced
from .capture import BOOKKEEPING, FREE, capture, name_of
from .optimise import PASSES, Optimised, optimise
from .plan import plan
from .stacks import drift, present

SHORT = {"scaled_dot_product_attention": "attention", "_assert_tensor_metadata": "assert",
         "promote_types": "types"}  # fmt: skip


# ---- the graph ----


def block_of(gm):
    """(the computing nodes, {node: the computing nodes that it reads}, {node: how deep it stands})."""
    nodes = [n for n in gm.graph.nodes if n.op not in BOOKKEEPING and name_of(n) not in FREE]
    reads = {n: set() for n in nodes}
    seen = {}  # the computing nodes behind each node, through free ones
    for node in gm.graph.nodes:
        behind = set()
        for source in node.all_input_nodes:
            behind |= {source} if source in reads else seen.get(source, set())
        seen[node] = behind
        if node in reads:
            reads[node] = behind
    depth = {}
    for node in nodes:
        depth[node] = 1 + max((depth[source] for source in reads[node]), default=-1)
    return nodes, reads, depth


def small(model):
    """One block of the model's sizes: a graph that fits on a page."""
    config = type(model.config)(**{**vars(model.config), "n_layer": 1})
    with torch.random.fork_rng(devices=[]):
        return GPT(config).eval()


def draw(ax, gm, title):
    """Computing nodes as boxes, from top to bottom by how deep they stand, and who reads whom."""
    nodes, reads, depth = block_of(gm)
    rows = {}
    for node in nodes:
        rows.setdefault(depth[node], []).append(node)
    places = {}
    for level, row in rows.items():
        for i, node in enumerate(row):
            places[node] = ((i - (len(row) - 1) / 2) * 2.0, -level)
    for node in nodes:
        for source in reads[node]:
            (x0, y0), (x1, y1) = places[source], places[node]
            ax.plot([x0, x1], [y0, y1], color=plots.QUIET, linewidth=0.6, zorder=1)
    for node, (x, y) in places.items():
        heavy = any(word in name_of(node) for word in ("linear", "product", "gated")) and (
            "attention" not in name_of(node)
        )
        face = plots.COLOURS[5] if heavy else "#FFFFFF"
        ax.text(x, y, SHORT.get(name_of(node), name_of(node)), ha="center",
                va="center", fontsize=5.5, color=plots.INK, zorder=2,
                bbox={"boxstyle": "round,pad=0.2", "facecolor": face, "edgecolor": plots.QUIET,
                      "linewidth": 0.5})  # fmt: skip
    widest = max(abs(x) for x, _ in places.values()) + 1.2
    ax.set(xlim=(-widest, widest), ylim=(-max(depth.values()) - 0.8, 0.8), title=f"{title}: {len(nodes)}")
    ax.axis("off")


def graph(lab):
    """One block with embedding and head, before and after: every operation that touches numbers."""
    gm = capture(small(lab.model))
    fig, ((left, right),) = plots.figure(1, 2, width=9, height=10)
    draw(left, gm, "as captured")
    optimise(gm)
    draw(right, gm, "rewritten")
    lab.save(fig, "graph.png")
    return {"nodes after": len(block_of(gm)[0])}


def ladder(applied):
    """How many operations are left after each pass: those that compute, and those that only look."""
    rows = [one for one in applied if one.changed or one.name == "captured"]
    fig, ((ax,),) = plots.figure(height=0.34 * len(rows) + 1.2)
    names = [f"{one.name}  " for one in rows][::-1]
    ax.barh(range(len(rows)), [one.computing for one in rows][::-1], color=plots.COLOURS[0])
    for i, one in enumerate(rows[::-1]):
        ax.annotate(str(one.computing), (one.computing, i), xytext=(4, 0), textcoords="offset points",
                    va="center", size=10, color=plots.INK)  # fmt: skip
    ax.set_yticks(range(len(rows)), names, size=10)
    ax.set(xlabel="operations of a step that touch numbers")
    ax.grid(False, axis="y")
    ax.margins(x=0.1)
    return fig


def counts(lab):
    """Operations left after each pass."""
    step = Optimised(lab.model, lab.steps(1).caches)
    for one in step.applied:
        lab.say(f"  {one.name:18} changed {one.changed:4}   {one.nodes:4} nodes, {one.computing:4} compute   "
                f"{1e3 * one.seconds:7.1f} ms")  # fmt: skip
    lab.save(ladder(step.applied), "counts.png")
    return {"captured": step.applied[0].computing, "in the end": step.applied[-1].computing}


# ---- time ----


def rungs():
    """Lists of passes that grow: what each group adds."""
    ends = {"as captured, planned": 0, "general passes": 5, "products and turns merged": 7,
            "cache in place, filled only": 9, "vectors, fused": 15, "layout": len(PASSES)}  # fmt: skip
    return {name: PASSES[:end] for name, end in ends.items()}


def time(lab):
    """Milliseconds of a step, eager and with more and more passes."""
    steps, found = lab.steps(), {}
    found["eager"] = fastest(lambda: steps(lab.model), lab.config.seconds)
    want = steps(lab.model).clone()
    for name, passes in rungs().items():
        step = Optimised(lab.model, steps.caches, passes)
        found[name] = fastest(lambda s=step: steps(s), lab.config.seconds)
        off = (steps(step) - want).abs().max().item()
        lab.say(f"  {name:28} {1e3 * found[name]:7.2f} ms   {step.plan.calls:4} calls   off by {off:.1e}")
    fig, ((ax,),) = plots.figure(height=3.6)
    ax.barh(range(len(found)), [1e3 * s for s in found.values()][::-1], color=plots.COLOURS[0])
    ax.set_yticks(range(len(found)), list(found)[::-1], size=10)
    for i, s in enumerate(list(found.values())[::-1]):
        ax.annotate(f"{1e3 * s:.2f}", (1e3 * s, i), xytext=(4, 0), textcoords="offset points", va="center",
                    size=10, color=plots.INK)  # fmt: skip
    ax.set(xlabel=f"ms a token, {lab.config.size // 2} tokens in the cache")
    ax.grid(False, axis="y")
    lab.save(fig, "time.png")
    return {f"{name}, ms": 1e3 * s for name, s in found.items()}


def source(lab):
    """The plan of a step, as Python: what is left of the model."""
    step = plan(optimised(small(lab.model)))
    lab.say("\n".join(f"  {line}" for line in step.source.splitlines()))
    return {"calls": step.calls}


def optimised(model):
    gm = capture(model)
    optimise(gm)
    return gm


# ---- stacks ----


def stacks(lab):
    """One model on every stack that is here: latency, and how far its logits drift from float64."""
    ids, found = lab.text(lab.config.follow), {}
    made, absent = present(lab.model, lab.folder, lab.config.size, lab.config.stacks)
    for name, why in absent.items():
        lab.say(f"  {name}: absent, {why}")
    for name, stack in made.items():
        logits, _ = paced(stack, ids)
        far, other = drift(logits, lab.model, ids)
        spent = min(statistics.median(paced(stack, ids)[1]) for _ in range(3))
        lab.say(f"  {name:20} {1e3 * spent:7.2f} ms a token   drift {far:.1e}   another token in {other:.1%}")
        found[name] = spent, far
    fig, ((left, right),) = plots.figure(1, 2, width=9.5, height=0.36 * len(found) + 1.4)
    for ax, column, label in ((left, 0, "ms a token"), (right, 1, "largest drift of a logit")):
        ax.barh(range(len(found)), [v[column] * (1e3 if column == 0 else 1) for v in found.values()][::-1],
                color=plots.COLOURS[column])  # fmt: skip
        ax.set_yticks(range(len(found)), list(found)[::-1] if column == 0 else [""] * len(found), size=10)
        ax.set(xlabel=label)
        ax.grid(False, axis="y")
    right.set_xscale("log")
    lab.save(fig, "stacks.png")
    return {f"{name}, {key}": value for name, pair in found.items()
            for key, value in zip(("ms", "drift"), (1e3 * pair[0], pair[1]), strict=True)}  # fmt: skip
