"""The ring as it fills, its messages over time, what a rank holds, and layouts for many GPUs."""

import copy
import threading

import torch

from common import plots
from common.errors import UserError

from . import collectives, tensor_parallel
from ._published import PUBLISHED, predicted
from .collectives import Message, Processes
from .crew import Crew
from .groups import Ring
from .layouts import MACHINES, Shape, best
from .threads import ranks
from .vocabulary import ParallelCausalLM

RANKS = 4


def ring(lab):
    """A sum in 2 (N - 1) steps, as it runs on four virtual ranks: how many terms each part holds."""
    frames = watched(RANKS)

    def draw(step):
        fig, ((ax,),) = plots.figure(width=5.2, height=4.4)
        half = "start" if step == 0 else "reduce-scatter" if step < RANKS else "all-gather"
        paint(ax, frames[step], f"{half}, after {step} of {len(frames) - 1} steps")
        return fig

    lab.keep(plots.animate(draw, len(frames), lab.run.folder / "ring.gif", seconds=1.2))
    chosen = (0, 1, RANKS - 1, 2 * RANKS - 2)
    fig, (axes,) = plots.figure(1, len(chosen), width=13, height=3.5)
    for ax, step in zip(axes, chosen, strict=True):
        paint(ax, frames[step], f"step {step}" if step else "start")
    lab.save(fig, "ring.png")
    complete = [sum(value == RANKS for row in frame for value in row) for frame in frames]
    lab.say(f"  parts that hold all {RANKS} terms, step by step: {complete}")
    return {"steps": len(frames) - 1, "complete": complete[-1]}


def paint(ax, frame, title):
    plots.heatmap(ax, frame, x=[f"part {p}" for p in range(RANKS)], y=[f"rank {r}" for r in range(RANKS)],
                  title=title, high=RANKS)  # fmt: skip
    for r, row in enumerate(frame):
        for p, terms in enumerate(row):
            ax.text(p, r, f"{terms:g}", ha="center", va="center", fontsize=12,
                    color="white" if terms > RANKS / 2 else plots.INK)  # fmt: skip


def watched(world):
    """[step][rank][part]: terms summed up, as the ring of collectives.py does it, each rank's parts ones."""
    seen, lock = {}, threading.Lock()

    def work(wire):
        parts, step, plain = [torch.ones(1) for _ in range(world)], [0], wire.exchange

        def look():
            with lock:
                seen[step[0], wire.rank] = [part.item() for part in parts]
            step[0] += 1

        def exchange(*args):
            look()
            plain(*args)

        wire.exchange = exchange
        collectives.reduce_scatter(wire, parts)
        collectives.all_gather(wire, parts)
        look()

    ranks(world, work)
    return [[seen[step, rank] for rank in range(world)] for step in range(2 * world - 1)]


def traced(rank, world, n):
    """{name: a collective of n numbers, whose messages are kept}; "collect" gives all ranks' of the last."""
    wire, x = Processes(), torch.ones(n)

    def noted(do):
        def task():
            torch.distributed.barrier()
            wire.log = []
            do()

        return task

    def collect():
        found = [None] * world
        torch.distributed.all_gather_object(found, [tuple(message) for message in wire.log])
        return [Message(*message) for messages in found for message in messages]

    return {"by a star": noted(lambda: collectives.star_all_reduce(wire, x)),
            "round a ring": noted(lambda: collectives.all_reduce(wire, x)),
            "broadcast, in pieces": noted(lambda: collectives.broadcast(wire, x, 0, max(1, n // 16))),
            "collect": collect}  # fmt: skip


def messages(lab):
    """Every message of a sum over four processes, by a star and round a ring; and a broadcast in pieces."""
    n, found = int(lab.config.megabytes * 2**20 / 4), {}
    fig, axes = plots.figure(3, 1, width=9, height=7.2)
    with Crew(RANKS, traced, n) as crew:
        for ax, name in zip(axes[:, 0], list(crew.tasks)[:3], strict=True):
            crew(name)  # the first one opens connections
            crew(name)
            log = crew("collect")
            start, end = min(m.begin for m in log), max(m.end for m in log)
            for m in log:
                ax.barh(m.source, 1e3 * (m.end - m.begin), left=1e3 * (m.begin - start), height=0.7,
                        color=plots.COLOURS[m.target], edgecolor="white", linewidth=0.8)  # fmt: skip
            most = max(sum(m.nbytes for m in log if m.source == rank) for rank in range(RANKS))
            ax.set(title=f"{name}: {1e3 * (end - start):.0f} ms; the busiest sends {most / 2**20:.3g} MB",
                   ylim=(RANKS - 0.5, -0.5))  # fmt: skip
            ax.set_yticks(range(RANKS), [f"rank {r}" for r in range(RANKS)])
            found |= {f"{name}, ms": 1e3 * (end - start), f"{name}, MB of the busiest": most / 2**20}
            lab.say(f"  {name}: {len(log)} messages, {1e3 * (end - start):.1f} ms, the busiest rank sent "
                    f"{most / 2**20:.3g} MB")  # fmt: skip
    axes[2, 0].set(xlabel="ms; a bar is a rank's exchange, coloured by the rank that it sends to")
    lab.save(fig, "messages.png")
    return found


def held(wire, lab, sequence):
    """Bytes on this rank: weights with gradients and Adam's two moments, and what backward will want."""
    model = tensor_parallel.apply(copy.deepcopy(lab.base), Ring(wire), sequence)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(x):
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    row = lab.rows[0]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = ParallelCausalLM(model)((row[:, :-1], row[:, 1:]))
    loss.backward()
    return 16 * sum(p.numel() for p in model.parameters()), sum(storage.nbytes() for storage in kept.values())


def memory(lab):
    """What the busiest of 1, 2 and 4 ranks holds, with all rows and with a slice of them."""
    groups = {}
    for world in (1, 2, 4):
        for sequence in (False, True) if world > 1 else (False,):
            found = ranks(world, held, lab, sequence)
            state, kept = (max(pair[i] for pair in found) for i in (0, 1))
            name = f"{world} rank{'s' * (world > 1)}" + ",\nsequence" * sequence
            groups[name] = {"weights, gradients, moments": state / 1e6, "kept for backward": kept / 1e6}
            lab.say(
                f"  {name.replace(chr(10), ' ')}: {state / 1e6:.2f} MB of state, {kept / 1e6:.2f} MB kept"
            )
    fig, ((ax,),) = plots.figure(width=9)
    plots.bars(ax, groups, label="{:.2f}")
    ax.set(ylabel="MB on the fullest rank")
    plots.legend(ax)
    lab.save(fig, "memory.png")
    one, last = groups["1 rank"], groups["4 ranks,\nsequence"]
    return {key: last[key] / one[key] for key in one}


def layouts(lab):
    """The planner beside published runs; and how the best layout changes with the number of GPUs."""
    fig, ((left, right),) = plots.figure(1, 2, width=12)
    for name, colour in (("Megatron", plots.COLOURS[0]), ("Llama", plots.COLOURS[1])):
        runs = [run for run in PUBLISHED if run.name.startswith(name)]
        left.plot(
            [run.share for run in runs], [predicted(run) for run in runs], "o", color=colour, label=name
        )
    left.plot((0.35, 0.55), (0.35, 0.55), color=plots.QUIET, linewidth=1)
    left.set(xlabel="share of the peak, published", ylabel="by the formulas", aspect="equal")
    plots.legend(left)
    sizes = [64, 256, 1024, 4096, 16384]
    for params in (8e9, 70e9, 405e9):
        points = []
        for gpus in sizes:
            shape = Shape.guess(params, 8192, 2048)
            points.append(share_of(shape, gpus))
        right.plot(sizes, points, "o-", label=f"{params / 1e9:g}B")
    right.set_xscale("log", base=2)
    right.set(
        xlabel="H100s, 2048 sequences of 8192 tokens an update", ylabel="share of the peak", ylim=(0, 0.6)
    )
    plots.legend(right, loc="lower left")
    lab.save(fig, "layouts.png")
    off = max(abs(predicted(run) / run.share - 1) for run in PUBLISHED)
    lab.say(f"  furthest from a published run: {off:.0%}")
    return {"furthest": off}


def share_of(shape, gpus):
    """Of the quickest layout; NaN where none fits, which leaves a gap in the line."""
    try:
        return best(shape, gpus, MACHINES["H100"])[0][1].mfu
    except UserError:
        return float("nan")
