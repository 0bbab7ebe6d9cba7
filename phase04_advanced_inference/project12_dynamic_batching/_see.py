"""See, in steps: who sits in which slot, who waits for whom, what too little memory costs."""

import statistics

from matplotlib.patches import Patch, Rectangle

from common import plots
from common.plots import COLOURS, GRID, QUIET

from ._lab import Steps
from .batching import bound, continuous_steps, static_steps


def static_log(prompts, lengths, B):
    """The log (see Watched) of static batches; None for an id marks a row that runs on for nothing."""
    log = []
    for i in range(0, len(lengths), B):
        batch = range(i, min(i + B, len(lengths)))
        for step in range(max(lengths[id] for id in batch)):
            log.append([(row, id if step < lengths[id] else None, prompts[id] if step == 0 else 1)
                        for row, id in enumerate(batch)])  # fmt: skip
    return log


def gantt_picture(logs, slots):
    """One panel for each {title: log}: slots upwards, steps to the right, a colour for each request."""
    last = max(map(len, logs.values()))
    fig, axes = plots.figure(len(logs), 1, width=8.5, height=2.6 * len(logs))
    for (ax,), (title, log) in zip(axes, logs.items(), strict=True):
        for step, fed in enumerate(log):
            for slot, id, n in fed:
                colour = GRID if id is None else COLOURS[id % (len(COLOURS) - 1)]
                ax.add_patch(bar(step, slot, colour, hatch="////" if id is not None and n > 1 else None))
        useful = sum(id is not None for fed in log for _, id, _ in fed)
        ax.set_title(f"{title}: {len(log)} steps, {useful / (slots * len(log)):.0%} of the places at work",
                     loc="left")  # fmt: skip
        ax.set(xlim=(0, last), ylim=(slots, 0), ylabel="slot", yticks=[])
        ax.grid(False)
    axes[-1, 0].set_xlabel("step")
    legend = [Patch(facecolor=COLOURS[0], label="writes, a colour a request"),
              Patch(facecolor=COLOURS[0], edgecolor="white", hatch="////", label="reads its prompt"),
              Patch(facecolor=GRID, label="runs on for nothing")]  # fmt: skip
    fig.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False, fontsize=10.5)
    return fig


def bar(step, slot, colour, hatch=None):
    return Rectangle((step, slot + 0.08), 1, 0.84, facecolor=colour, hatch=hatch,
                     edgecolor="white" if hatch else colour, linewidth=0)  # fmt: skip


def gantt(lab) -> dict:
    """The slots of static and of continuous batching, the same requests in the same order."""
    slots, requests = lab.config.slots, lab.requests(6 * lab.config.slots)
    lengths = [one.n for one in requests]
    steps = Steps(lab.small, slots, lab.config.context)
    for one in requests:
        steps.add(one.prompt, one.n)
    log = steps.drain().store.log
    static = static_log([len(one.prompt) for one in requests], lengths, slots)
    lab.say(f"  answers of {min(lengths)} to {max(lengths)} tokens, the mean {statistics.mean(lengths):.0f}; "
            f"{static_steps(lengths, slots)} forwards in static batches, {continuous_steps(lengths, slots)} "
            f"counted for continuous ones, {len(log)} steps made: {bound(lengths, slots):.2f} times fewer "
            "at best")  # fmt: skip
    lab.save(gantt_picture({"static": static, "continuous": log}, slots), "gantt.png")
    return {"static": float(len(static)), "continuous": float(len(log)), "bound": bound(lengths, slots)}


# ---- who waits for whom ----


def crowd_and_guest(lab, shared):
    """A tenant puts in many requests at once, another one asks now and then: (the guest's waits, all)."""
    slots, n = lab.config.slots, lab.config.median
    steps, guests = Steps(lab.small, slots, lab.config.context), []
    crowd = [steps.add([1, 2, 3], n, tenant="" if shared else "crowd") for _ in range(6 * slots)]
    for _ in range(5 * n):
        if steps.now % n == n // 2:
            guests.append(steps.add([4, 5], n // 2 or 1, tenant="" if shared else "guest"))
        steps.step()
    steps.drain()
    return [steps.wait(id) for id in guests], [steps.wait(id) for id in crowd]


def fairness(lab) -> dict:
    """One sends a crowd of requests, another a single one now and then: how many steps does who wait?"""
    fig, axes = plots.figure(1, 2, width=8.5, height=3.4)
    found = {}
    for ax, (name, shared) in zip(axes[0], {"one queue": True, "a queue for each": False}.items(),
                                  strict=True):  # fmt: skip
        guest, crowd = crowd_and_guest(lab, shared)
        ax.plot(range(len(crowd)), crowd, ".", color=QUIET, label="the crowd")
        at = [len(crowd) * (i + 0.5) / len(guest) for i in range(len(guest))]
        ax.plot(at, guest, "o", color=COLOURS[1], label="the guest")
        ax.set(title=name, xlabel="requests, in order", ylabel="steps until the first token")
        lab.say(f"  {name:17} the guest waits {statistics.mean(guest):5.1f} steps on average, the crowd "
                f"{statistics.mean(crowd):5.1f}")  # fmt: skip
        found |= {f"guest, {name}": statistics.mean(guest), f"crowd, {name}": statistics.mean(crowd)}
    top = max(ax.get_ylim()[1] for ax in axes[0])
    for ax in axes[0]:
        ax.set_ylim(0, top)
    plots.legend(axes[0, 0])
    lab.save(fig, "fairness.png")
    return found


def memory(lab) -> dict:
    """Less and less room for the same requests: preemptions, and tokens that are read again."""
    slots, requests = lab.config.slots, lab.requests(4 * lab.config.slots)
    size = max(len(one.prompt) + one.n for one in requests)
    whole, rows, right = slots * size, [], None
    for share in (1.0, 0.5, 0.35, 0.25, 0.18):
        steps = Steps(lab.small, slots, size, budget=max(size, round(share * whole)))
        for one in requests:
            steps.add(one.prompt, one.n)
        stats = steps.drain().engine.stats()
        right = right or steps.ids
        needed = sum(len(one.prompt) + one.n - 1 for one in requests)
        same = sum(steps.ids[id] == ids for id, ids in right.items()) / len(right)
        rows.append((steps.store.budget / whole, stats["steps"], stats["tokens fed"] / needed - 1, same))
        lab.say(f"  room for {rows[-1][0]:4.0%} of what the slots could hold: {stats['steps']:4} steps, "
                f"{stats['preemptions']:3} preemptions, {rows[-1][2]:5.1%} of the tokens read again, "
                f"{same:4.0%} of the answers unchanged")  # fmt: skip
    fig, ((left, middle),) = plots.figure(1, 2, width=8.5, height=3.2)
    room = [100 * row[0] for row in rows]
    left.plot(room, [row[1] for row in rows], "o-")
    left.set(title="Steps", xlabel="room, % of all slots filled", ylim=(0, None))
    middle.plot(room, [100 * row[2] for row in rows], "o-", color=COLOURS[1])
    middle.set(title="Read again, % of the tokens", xlabel="room, % of all slots filled", ylim=(0, None))
    lab.save(fig, "memory.png")
    return {"steps, all the room": float(rows[0][1]), "steps, least room": float(rows[-1][1]),
            "read again, least room": rows[-1][2], "unchanged": min(row[3] for row in rows)}  # fmt: skip
