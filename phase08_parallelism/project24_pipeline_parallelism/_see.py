"""Schedules as they are, as they run, and what becomes of them from 2 to 16 ranks."""

from common import plots
from phase08_parallelism.project23_tensor_parallelism.crew import Crew

from ._lab import bytes_of, measured_costs, timelines
from .schedules import SCHEDULES, held, schedule
from .simulator import UNIT, bubble, messages, peak, simulate

TITLES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "interleaved 1F1B, two stages a rank",
    "zb-h1": "ZB-H1",
}
KINDS = {"F": plots.COLOURS[0], "B": plots.COLOURS[1], "I": plots.COLOURS[4], "W": plots.COLOURS[2]}
WORDS = {"F": "forwards (F)", "B": "backwards (B)", "I": "of inputs (I)", "W": "of weights (W)"}


def rounds_of(name):
    return 2 if name == "interleaved" else 1


def played(name, p, m):
    """A schedule with equal costs of the three parts; an interleaved rank's stages share them."""
    v = rounds_of(name)
    return simulate(schedule(name, p, m, v), lambda action: UNIT.of(action) / v)


def gantt(ax, timeline, title, end=None):
    """A row for each rank, a bar with a number for each action; later stages of a rank are paler."""
    start, p = min(slot.begin for slot in timeline.slots), timeline.ranks
    end = end or timeline.total
    for slot in timeline.slots:
        long = slot.end - slot.begin
        ax.barh(slot.rank, long, left=slot.begin - start, height=0.86, color=KINDS[slot.action.kind],
                edgecolor="white", linewidth=0.7, alpha=0.55 if slot.action.stage >= p else 1.0)  # fmt: skip
        if long > 0.011 * end:
            ax.text(slot.begin - start + long / 2, slot.rank, slot.action.micro, ha="center", va="center",
                    fontsize=9, color="white")  # fmt: skip
    ax.set(title=title, ylim=(p - 0.5, -0.5), xlim=(0, 1.01 * end))
    ax.set_yticks(range(p), [f"rank {rank}" for rank in range(p)])
    ax.grid(False)


def names_of_kinds(fig, kinds):
    handles = [fig.axes[0].barh(-9, 0, color=KINDS[kind], label=WORDS[kind]) for kind in kinds]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=11)


def schedules(lab):
    """Four ways through the same eight micro-batches on four ranks, by the clock of simulator.py."""
    p, m, found = 4, 8, {}
    fig, axes = plots.figure(len(SCHEDULES), 1, width=12, height=8.6)
    runs = {name: played(name, p, m) for name in SCHEDULES}
    longest = max(run.total for run in runs.values())
    for ax, (name, run) in zip(axes[:, 0], runs.items(), strict=True):
        v = rounds_of(name)
        most = peak(schedule(name, p, m, v), v)
        gantt(
            ax, run, f"{TITLES[name]}: bubble {run.bubble:.1%}, at most {most:g} micro-batches held", longest
        )
        ax.set_xticks([])
        found |= {f"{name}, bubble": run.bubble, f"{name}, held": most, f"{name}, time": run.total}
        lab.say(f"  {TITLES[name]}: time {run.total:g}, bubble {run.bubble:.1%} (formula "
                f"{bubble(name, p, m, v):.1%}), at most {most:g} micro-batches held")  # fmt: skip
    names_of_kinds(fig, "FBIW")
    lab.save(fig, "schedules.png")
    return found


def measured(lab):
    """Two processes as they really run, over the clock's picture with the costs that were measured."""
    m, found = lab.config.micro, {}
    cases = {name: (name, m, 1, None) for name in ("1f1b", "zb-h1")}
    with Crew(2, timelines, lab.sizes, cases) as crew:
        runs = {name: min((crew(name) for _ in range(lab.config.repeats)), key=lambda run: run.total)
                for name in cases}  # fmt: skip
    fig, axes = plots.figure(4, 1, width=12, height=6.4)
    longest = max(run.total for run in runs.values())
    for i, (name, run) in enumerate(runs.items()):
        costs = measured_costs(run)
        said = simulate(schedule(name, 2, m), lambda action, costs=costs: costs[action.stage, action.kind])
        gantt(axes[2 * i, 0], run, f"{TITLES[name]} on two processes: bubble {run.bubble:.1%}", longest)
        gantt(axes[2 * i + 1, 0], said, f"{TITLES[name]} by the clock: bubble {said.bubble:.1%}", longest)
        found |= {f"{name}, measured": run.bubble, f"{name}, simulated": said.bubble,
                  f"{name}, formula": bubble(name, 2, m), f"{name}, seconds": run.total}  # fmt: skip
        lab.say(f"  {TITLES[name]}: bubble {run.bubble:.1%}; by the clock with measured costs "
                f"{said.bubble:.1%}; by the formula {bubble(name, 2, m):.1%}; {run.total:.3f} s")  # fmt: skip
    for ax in axes[:-1, 0]:
        ax.set_xticklabels([])
    axes[-1, 0].set(xlabel="seconds")
    names_of_kinds(fig, "FBIW")
    lab.save(fig, "measured.png")
    return found


def scale(lab):
    """Bubble, activations held and messages from 2 to 16 ranks, with 32 micro-batches."""
    sizes, m, found = (2, 4, 8, 16), 32, {}
    fig, (axes,) = plots.figure(1, 3, width=14, height=4.2)
    for i, name in enumerate(SCHEDULES):
        v, width = rounds_of(name), 7 - 2 * i  # so that lines that lie on one another can be seen
        orders = {p: schedule(name, p, m, v) for p in sizes}
        lines = ([100 * played(name, p, m).bubble for p in sizes], [peak(orders[p], v) for p in sizes],
                 [messages(orders[p]) for p in sizes])  # fmt: skip
        for ax, line in zip(axes, lines, strict=True):
            ax.plot(sizes, line, "o-", linewidth=width, label=TITLES[name].partition(",")[0])
        found |= {f"{name}, bubble at 16": lines[0][-1] / 100, f"{name}, held at 16": lines[1][-1]}
        lab.say(f"  {TITLES[name]} on 16 ranks: bubble {lines[0][-1]:.1f} %, {lines[1][-1]:g} micro-batches "
                f"held, {lines[2][-1]} messages")  # fmt: skip
    what = ("bubble, % of the time", "micro-batches held at most", "messages in an update")
    for ax, label in zip(axes, what, strict=True):
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, map(str, sizes))
        ax.set(xlabel=f"ranks; {m} micro-batches", ylabel=label, ylim=(0, None))
    plots.legend(axes[0])
    lab.save(fig, "scale.png")
    return found


def memory(lab):
    """What a rank keeps for the backward pass while it runs, in bytes, on four virtual ranks."""
    p, m, groups = 4, 8, {}
    for name in ("gpipe", "1f1b", "zb-h1"):
        found = bytes_of(lab, name, p, m)
        groups[TITLES[name]] = {f"rank {rank}": most / 1e6 for rank, (most, _) in enumerate(found)}
        counts, said = [made for _, made in found], [max(held(order)) for order in schedule(name, p, m)]
        sizes = ", ".join(f"{most / 1e6:.2f}" for most, _ in found)
        lab.say(f"  {TITLES[name]}: at most {sizes} MB; micro-batches {counts}, by the orders {said}")
    fig, ((ax,),) = plots.figure(width=9)
    plots.bars(ax, groups, label="{:.2f}")
    ax.set(ylabel="MB kept for backward, at most")
    plots.legend(ax)
    lab.save(fig, "memory.png")
    return {f"{name}, {rank}": most for name, each in groups.items() for rank, most in each.items()}
