"""See: hit rates over time, who is evicted when, the tree of prefixes, first tokens, many servers."""

import math
from random import Random

import numpy as np

from common import plots

from . import _servers
from ._trace import conversations
from .eviction import TokenStore, frequent, lru, optimal_hits, token_aware
from .exact_cache import HitRate
from .prefix_cache import PrefixCache, PrefixIndex

POLICIES = {"LRU": lru, "token-aware": token_aware, "LRFU": frequent}


def requests(n, seed=0):
    """n requests (key, tokens): most are asked for again and again; one in ten is long, and seldom is.

    In the middle third somebody reads reports: there two in three are long.
    """
    draw, sizes = Random(seed), {}
    asked = []
    for i in range(n):
        long = draw.random() < (0.67 if n // 3 < i < 2 * n // 3 else 0.1)
        key = ("long", i // 2) if long else ("short", int(draw.paretovariate(0.7)) % 150)
        size = sizes.setdefault(key, int(draw.lognormvariate(math.log(1200 if long else 120), 0.5)) + 1)
        asked.append((key, size))
    return asked


def serve(asked, store, by_entries=False, window=60):
    """(hit rate over time, whole hit rate, most tokens held, evictions) of a store on a trace."""
    rate, course, most, evicted, sizes = HitRate(window), [], 0, 0, dict(asked)
    for key, size in asked:
        hit = store.get(key) is not None
        rate.add(hit)
        if not hit:
            evicted += len(store.put(key, True, 1 if by_entries else size).evicted)
        most = max(most, sum(sizes[held] for held in store.items))
        course.append(rate.now)
    return course, rate.overall, most, evicted


def rates(lab):
    """Hit rate over time by policy, and the same budget counted in entries and in tokens."""
    asked = requests(4 * lab.config.turns)
    budget = max(200, sum(dict(asked).values()) // 8)
    entries = max(1, budget * len(dict(asked)) // sum(dict(asked).values()))
    fig, ((ax,),) = plots.figure(width=8.5)
    lab.say(f"  a budget of {budget:,} tokens, or of {entries} entries, which is as much on the average")
    found, runs = {}, {name: (TokenStore(budget, worth), False) for name, worth in POLICIES.items()}
    for name, (store, by_entries) in {**runs, "LRU, in entries": (TokenStore(entries, lru), True)}.items():
        course, overall, most, evicted = serve(asked, store, by_entries)
        ax.plot(course, label=f"{name}: {overall:.0%} of all", linestyle="--" if by_entries else "-")
        lab.say(f"  {name:16} hit rate {overall:5.1%}   at most {most:8,} tokens   {evicted:5} evictions")
        found |= {f"hit rate, {name}": overall, f"tokens, {name}": most}
    best = optimal_hits(asked, budget) / len(asked)
    ax.set(title=f"Share of the last 60 requests that hit (the future known: {best:.0%} of all)",
           xlabel="request", ylim=(0, 1))  # fmt: skip
    plots.legend(ax, loc="lower right", ncols=2)
    lab.save(fig, "rates.png")
    return {**found, "hit rate, the future known": best, "budget": budget}


def evictions(lab):
    """Who is held and who had to go, request by request: LRU beside the token-aware rule."""
    asked = requests(160, seed=3)
    budget = sum(dict(asked).values()) // 6
    order = {key: i for i, key in enumerate(sorted(dict(asked), key=dict(asked).get))}
    fig, axes = plots.figure(1, 2, width=11.0, height=4.8)
    found = {}
    for ax, (name, worth) in zip(axes[0], list(POLICIES.items())[:2], strict=True):
        store, table, hits = TokenStore(budget, worth), np.zeros((len(order), len(asked))), 0
        for i, (key, size) in enumerate(asked):
            if store.get(key) is None:
                store.put(key, True, size)
            else:
                hits += 1
                ax.plot(i, order[key], ".", color=plots.COLOURS[1], markersize=4)
            for held in store.items:
                table[order[held], i] = 1
        ax.imshow(table, cmap="Blues", vmax=1.8, aspect="auto", interpolation="nearest", origin="lower")
        ax.grid(False)
        ax.set(title=f"{name}: {hits / len(asked):.0%} hits", xlabel="request",
               ylabel="item, the shortest at the bottom")  # fmt: skip
        found[f"hits, {name}"] = hits / len(asked)
        lab.say(f"  {name:12} {hits} of {len(asked)} hit; {len(store)} items at the end, of {store.tokens:,}")
    lab.save(fig, "evictions.png")
    return found


def tree(lab):
    """The radix tree after some turns of chats: who shares what with whom."""
    index, said, block = PrefixIndex(64), conversations(14, seed=2, users=5), 64
    for ids in said:
        n, handles = index.match(ids)
        end = len(ids) // block * block
        index.insert(ids[:end], handles + [None] * ((end - n) // block))
    fig, ((ax,),) = plots.figure(width=10.0, height=4.6)
    rows, depth = [0], [0]

    def draw(node, at):
        """Draw a node's subtree from column `at` on; the row of its first block."""
        row, depth[0] = rows[0], max(depth[0], at)
        for i, child in enumerate(node.children.values()):
            rows[0] += i > 0
            here = rows[0]
            ax.plot([at - 0.5, at - 0.5, at], [row, here, here], color=plots.QUIET, linewidth=1, zorder=1)
            shared = sum(tuple(ids[at * block : (at + 1) * block]) == child.key for ids in said)
            ax.barh(here, 0.82, left=at - 0.41, height=0.6, zorder=2,
                    color=plots.COLOURS[0] if shared > 1 else plots.COLOURS[5])  # fmt: skip
            ax.text(at, here, shared, ha="center", va="center", color="white", fontsize=9, zorder=3)
            draw(child, at + 1)

    draw(index.root, 0)
    ax.set(title=f"{len(said)} prompts, {sum(map(len, said)):,} tokens, in a tree of {index.tokens:,}",
           xlabel=f"blocks of {block} tokens from the beginning; in each, how many prompts pass it",
           xlim=(-0.7, depth[0] + 0.2), yticks=[])  # fmt: skip
    ax.invert_yaxis()
    ax.grid(False)
    lab.save(fig, "tree.png")
    total = sum(len(ids) // block * block for ids in said)
    lab.say(f"  {total:,} tokens in whole blocks, {index.tokens:,} held: {1 - index.tokens / total:.0%} less")
    return {"shared": 1 - index.tokens / total}


def share(lab):
    """Milliseconds to the first token by the share of the prompt that is held, and the bound."""
    n, block = lab.config.tokens, max(1, lab.config.tokens // 64)
    prompt, times, shares = lab.ids(n), [], (0, 0.25, 0.5, 0.75, 0.875, 0.9375, 0.96875)
    cache = PrefixCache(lab.timed, 2 * n, block)
    for part in shares:
        held = int(part * n) // block * block

        def first(held=held):
            cache.index.evict(cache.index.tokens - held)  # from the end of the prompt on
            return cache.prefill(prompt).logits

        times.append(lab.seconds(first))
        lab.say(f"  {part:6.1%} held: {1e3 * times[-1]:8.2f} ms, {times[0] / times[-1]:5.1f} times as fast; "
                f"bound {n / (n - held):5.1f}")  # fmt: skip
    fig, (both,) = plots.figure(1, 2, width=10.5)
    both[0].plot(shares, [1e3 * t for t in times], "o-")
    both[0].set(title="To the first token", xlabel="share of the prompt that is held", ylabel="ms")
    both[0].set_ylim(bottom=0)
    bound = [1 / (1 - part) for part in shares]
    both[1].plot(bound, [times[0] / t for t in times], "o-", label="measured")
    both[1].plot(bound, bound, ":", color=plots.QUIET, label="bound: 1 / (1 - share)")
    both[1].set(title=f"Of {n} tokens", xlabel="1 / (1 - share)", ylabel="times as fast", xscale="log")
    both[1].set_yscale("log")
    for axis in (both[1].xaxis, both[1].yaxis):
        axis.set_ticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        axis.set_minor_formatter("")
    plots.legend(both[1])
    lab.save(fig, "share.png")
    return {f"speed-up at {part:.1%}": times[0] / t for part, t in zip(shares, times, strict=True)}


def servers(lab):
    """The same chats on 1 to 64 servers: hit rate, copies and load, by turns and by the ring."""
    found, budget = _servers.sweep(lab.config.servers, 4 * lab.config.turns, budget=16_384), {}
    fig, (axes,) = plots.figure(1, 3, width=14.0)
    for way, rows in found.items():
        numbers = list(rows)
        for ax, key in zip(axes, ("hit rate", "copies", "busiest"), strict=True):
            ax.plot(numbers, [row[key] for row in rows.values()], "o-", label=way)
        last = rows[numbers[-1]]
        lab.say(f"  {way:13} on {numbers[-1]} servers: hit rate {last['hit rate']:.1%}, each block held "
                f"{last['copies']:.1f} times, the busiest {last['busiest']:.1f} times the mean")  # fmt: skip
        budget |= {f"{key}, {way}": last[key] for key in ("hit rate", "copies", "busiest")}
    for ax, title in zip(axes, ("Tokens that were held", "Servers that hold a block, mean",
                                "Computed by the busiest, over the mean"), strict=True):  # fmt: skip
        ax.set(title=title, xlabel="servers", xscale="log")
        ax.set_xticks(numbers, map(str, numbers))
        ax.minorticks_off()
    axes[0].set_ylim(0, 1)
    plots.legend(axes[0], loc="lower left")
    lab.save(fig, "servers.png")
    return budget
