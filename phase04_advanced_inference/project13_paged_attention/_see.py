"""See: who has which block over time, what is wasted, what sharing saves, what a fork copies."""


from matplotlib.patches import Patch, Rectangle

from common import plots
from common.plots import COLOURS, GRID, QUIET
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex

from ._lab import WatchedPages, WatchedSlots, over_lives, over_time, served
from .block_manager import BlockManager, blocks_for, expected_waste, reserved_waste, shared_savings


def colour_of(id):
    return COLOURS[id % (len(COLOURS) - 1)]


def film_picture(frames, blocks, title):
    """Blocks upwards, steps to the right, a colour for each text, narrower where a block is not full."""
    fig, ((ax,),) = plots.figure(width=8.5, height=4.4)
    for x, frame in enumerate(frames):
        for y, (id, n, size) in enumerate(frame):
            if n:
                colour = QUIET if id is None else colour_of(id)
                width = 0.4 + 0.6 * n / size
                ax.add_patch(Rectangle((x, y + 0.06), width, 0.88, facecolor=colour, linewidth=0))
    ax.set(xlim=(0, len(frames)), ylim=(blocks, 0), xlabel="step", ylabel="block", title=title)
    ax.grid(False)
    return fig


def film(lab) -> dict:
    """Who has which block, from step to step: texts grow block by block, and go anywhere."""
    blocks, rows = 24, 6
    store = WatchedPages(lab.small, blocks, 4)
    requests = [(ids[: 3 + i % 5], 6 + 5 * i % 23) for i, (ids, _) in enumerate(lab.requests(2 * rows))]
    served(store, lab.small, requests, max_batch=rows)
    frames = store.films
    title = f"{len(requests)} texts in {blocks} blocks of 4: a colour a text"
    lab.save(film_picture(frames, blocks, title), "film.png")
    steps = range(0, len(frames), -(-len(frames) // lab.config.frames))
    lab.keep(plots.animate(lambda i: page(frames[steps[i]], steps[i], blocks), len(steps),
                           lab.run.folder / "film.gif", seconds=0.15))  # fmt: skip
    return {"steps": float(len(frames)), "left over": float(len(store.tables))}


def page(frame, step, blocks):
    """One moment: the blocks in rows of eight, filled as far as they are written."""
    fig, ((ax,),) = plots.figure(width=6, height=2.6)
    for b, (id, n, size) in enumerate(frame):
        x, y = b % 8, b // 8
        ax.add_patch(Rectangle((x + 0.04, y + 0.08), 0.92, 0.84, facecolor=GRID))
        if n:
            colour = QUIET if id is None else colour_of(id)
            ax.add_patch(Rectangle((x + 0.04, y + 0.08), 0.92 * n / size, 0.84, facecolor=colour))
            ax.text(x + 0.5, y + 0.5, "" if id is None else str(id), ha="center", va="center", size=11)
    ax.set(xlim=(0, 8), ylim=(blocks // 8, 0), xticks=[], yticks=[])
    ax.set_title(f"step {step}", loc="left")
    ax.grid(False)
    return fig


def waste(lab) -> dict:
    """The same memory and the same requests: reserving the maximum, and pages. What is empty, who runs?"""
    c, requests = lab.config, lab.requests(lab.config.requests)
    longest = max(len(ids) + n for ids, n in requests)
    tokens = c.rows * longest
    slots = WatchedSlots(lab.small, c.rows, longest)
    pages = WatchedPages(lab.small, lab.blocks(tokens), c.size)
    logs, right = {}, None
    for name, store, most in (("reserved", slots, c.rows), ("paged", pages, 8 * c.rows)):
        _, answers = served(store, lab.small, requests, max_batch=most, max_step_tokens=16 * c.rows)
        right = right or answers
        same = sum(a == b for a, b in zip(answers, right, strict=True)) / len(right)
        logs[name] = store.log
    fig, axes = plots.figure(1, 2, width=8.5, height=3.4)
    for i, (name, log) in enumerate(logs.items()):
        axes[0, 0].plot([100 * (1 - held / room) for _, held, room in log], label=name, color=COLOURS[1 - i])
        axes[0, 1].plot([row[0] for row in log], label=name, color=COLOURS[1 - i])
    axes[0, 0].set(title="Empty, % of what is taken", xlabel="step", ylim=(0, 100))
    axes[0, 1].set(title="Texts at a time", xlabel="step", ylim=(0, None))
    for ax in axes[0]:
        plots.legend(ax)
    lab.save(fig, "waste.png")
    running, means, empty = ({name: over_time(log)[i] for name, log in logs.items()} for i in range(3))
    expected = expected_waste(means["paged"], c.size)
    lab.say(f"  {tokens} tokens of memory; "
            f"{len(logs['reserved'])} steps reserved, {len(logs['paged'])} paged")  # fmt: skip
    for name in logs:
        lab.say(f"  {name:9} {running[name]:6.1f} texts at a time, {empty[name]:6.1%} of their room is empty")
    lab.say(f"  expected of blocks of {c.size} for texts of {means['paged']:.0f} tokens on average: "
            f"{expected:.1%}")  # fmt: skip
    return {"empty, reserved": empty["reserved"], "empty, paged": empty["paged"],
            "expected": expected, "times as many": running["paged"] / running["reserved"],
            "same": same}  # fmt: skip


def sizes(lab) -> dict:
    """Small blocks waste less and share more; what speaks against blocks of one token?"""
    lengths = [len(ids) + n for ids, n in lab.requests(400)]
    every = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    means, found = zip(*(over_lives(lengths, size) for size in every), strict=True)
    mean = means[0]
    fig, axes = plots.figure(1, 2, width=8.5, height=3.4)
    axes[0, 0].plot(every, [100 * x for x in found], "o", label="counted")
    axes[0, 0].plot(every, [100 * expected_waste(mean, size) for size in every], label="formula")
    axes[0, 0].axhline(100 * reserved_waste(lengths, max(lengths)), color=QUIET, linestyle="--")
    axes[0, 0].annotate("reserved", (1, 100 * reserved_waste(lengths, max(lengths)) - 8), color=QUIET)
    axes[0, 0].set(title="Empty, %", xlabel="tokens a block", xscale="log", ylim=(0, 100))
    plots.legend(axes[0, 0], loc="center left")
    axes[0, 1].plot(every, [mean / size for size in every], "o-", color=COLOURS[2])
    axes[0, 1].set(title="Entries of a table", xlabel="tokens a block", xscale="log", yscale="log")
    lab.save(fig, "sizes.png")
    for size, empty in zip(every, found, strict=True):
        lab.say(f"  blocks of {size:3}: {empty:6.1%} empty; by the formula {expected_waste(mean, size):6.1%}")
    return {"empty, 16": found[4], "formula, 16": expected_waste(mean, 16)}


def counted_savings(count, shared, total, size):
    """What `shared_savings` says, counted in tables of a BlockManager: after 1, 2, … `count` texts."""
    alone, found = blocks_for(total, size), []
    manager = BlockManager(count * alone, size)
    manager.prefix = PrefixIndex(size)
    for i in range(count):
        ids = [*range(shared), *range(10_000 * (i + 1), 10_000 * (i + 1) + total - shared)]
        manager.open(i, ids)
        manager.reserve(i, total)
        manager.keep(i, ids)
        taken = len(manager.refs) - len(manager.free)
        found.append(1 - taken / ((i + 1) * alone))
    return found


def sharing(lab) -> dict:
    """N texts of 1,000 tokens begin with the same 200: what does that save?"""
    counts, found = (1, 2, 3, 5, 10, 20, 50, 100), {}
    fig, ((ax,),) = plots.figure(width=7.5, height=3.8)
    for size, colour in ((8, COLOURS[0]), (16, COLOURS[1]), (64, COLOURS[2])):
        every = counted_savings(max(counts), 200, 1000, size)
        found[size] = [every[n - 1] for n in counts]
        ax.plot(counts, [100 * x for x in found[size]], "o", color=colour, label=f"counted, blocks of {size}")
        ax.plot(counts, [100 * shared_savings(n, 200, 1000, size) for n in counts], color=colour, linewidth=1)
    plots.level(ax, 20, "200 of 1,000")
    ax.set(title="Blocks saved by a common beginning, %", xlabel="texts", xscale="log", ylim=(0, 23))
    plots.legend(ax, loc="lower right")
    lab.save(fig, "sharing.png")
    for n, value in zip(counts, found[8], strict=True):
        lab.say(f"  {n:3} texts: {value:6.2%} saved in blocks of 8; (1 - 1/{n}) x 200 / 1,000 = "
                f"{shared_savings(n, 200, 1000):6.2%}")  # fmt: skip
    return {"100, blocks of 8": found[8][-1], "100, blocks of 16": found[16][-1],
            "formula": shared_savings(100, 200, 1000)}  # fmt: skip


def fork(lab) -> dict:
    """One text becomes four: which blocks are shared, and which are copied, as they grow?"""
    manager, copies = BlockManager(24, 4), []
    manager.copy = lambda source, target: copies.append((source, target))
    manager.open(0, range(14))
    manager.reserve(0, 14)
    for id in (1, 2, 3):
        manager.fork(0, id)
    fig, axes = plots.figure(1, 3, width=8.5, height=2.8)
    shared = 0.0
    moments = {"forked": 14, "one token later": 15, "later": 22}
    for ax, (title, tokens) in zip(axes[0], moments.items(), strict=True):
        for id in range(4):
            manager.reserve(id, max(tokens - id if tokens > 15 else tokens, 14))
        for id, table in manager.tables.items():
            for i, block in enumerate(table):
                several = manager.refs[block] > 1
                ax.add_patch(Rectangle((i + 0.05, id + 0.1), 0.9, 0.8,
                                       facecolor=GRID if several else colour_of(id)))  # fmt: skip
                ax.text(i + 0.5, id + 0.5, str(block), ha="center", va="center", size=11)
        if tokens == 15:
            shared = sum(manager.refs[b] > 1 for b in manager.tables[1]) / len(manager.tables[1])
        ax.set(title=title, xlim=(0, 6), ylim=(4, 0), xticks=[], yticks=range(4))
        ax.set_yticks([0.5, 1.5, 2.5, 3.5], ["a", "b", "c", "d"])
        ax.grid(False)
    fig.legend(handles=[Patch(facecolor=GRID, label="shared"), Patch(facecolor=COLOURS[0], label="its own")],
               loc="outside lower center", ncols=2, frameon=False, fontsize=10.5)  # fmt: skip
    lab.save(fig, "fork.png")
    lab.say(f"  14 tokens in blocks of 4, four texts: {len(copies)} blocks were copied, {shared:.0%} of the "
            "blocks are shared one token later")  # fmt: skip
    return {"copies": float(len(copies)), "shared": shared}
