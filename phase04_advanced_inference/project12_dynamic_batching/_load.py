"""See, by the clock: what senders wait for when requests come by chance, and what a step's time goes to."""

import statistics
import threading
import time
from itertools import pairwise
from queue import SimpleQueue

from common import plots
from common.generate import Sampling

from ._workload import built, continuous, percentile, served, served_in_batches, spread
from .engine import Engine, SlotStore

MAX_WAIT = 0.05  # seconds that dynamic batching waits for a batch to fill
MODES = {
    "static": served_in_batches,
    "dynamic": lambda model, some, B: served_in_batches(model, some, B, MAX_WAIT),
    "continuous": served,
}


def capacity(lab):
    """Requests a second that the engine can bear, at most."""
    some = lab.requests(lab.config.requests)
    _, stats = continuous(lab.timed, some, lab.config.slots)
    return len(some) / sum(stats["seconds"].values())


def waiting(lab) -> dict:
    """Poisson arrivals at a fifth of what the engine can bear: who waits how long, in each mode."""
    rate = 0.2 * capacity(lab)
    fig, axes = plots.figure(1, 3, width=11, height=3.6)
    found, requests = {}, lab.requests(lab.config.requests, rate=rate)
    lab.say(f"  {len(requests)} requests, {rate:.1f} a second; milliseconds that 50, 95 and 99 of 100 wait "
            "at most")  # fmt: skip
    for mode, serve in MODES.items():
        rows, seconds = serve(lab.timed, requests, lab.config.slots)
        table = spread(rows)
        for ax, name in zip(axes[0], ("ttft", "tpot", "latency"), strict=True):
            ranked = sorted(1e3 * row[name] for row in rows)
            ax.plot(ranked, [100 * (i + 1) / len(ranked) for i in range(len(ranked))], label=mode)
            ax.set(xscale="log", xlabel="ms", title=TITLES[name], ylim=(0, 101))
        said = "   ".join(f"{name} " + " ".join(f"{1e3 * table[f'{name} p{p}']:6.0f}" for p in (50, 95, 99))
                          for name in ("ttft", "tpot", "latency"))  # fmt: skip
        lab.say(f"  {mode:11} {said}   all in {seconds:.1f} s")
        found |= {f"{mode}, {key}": value for key, value in table.items()}
    axes[0, 0].set_ylabel("% of the requests")
    plots.legend(axes[0, 0])
    lab.save(fig, "waiting.png")
    return found


TITLES = {"ttft": "First token (TTFT)", "tpot": "Each further one (TPOT)", "latency": "Last token"}


def load(lab) -> dict:
    """More and more arrivals: at which load does the wait begin to grow?"""
    most, count = capacity(lab), lab.config.requests
    fig, ((ax,),) = plots.figure(height=3.8)
    found = {}
    for mode, serve in MODES.items():
        points = []
        for share in (0.1, 0.25, 0.5, 1.0, 1.5, 2.0):
            requests = lab.requests(count, rate=share * most)
            rows, _ = serve(lab.timed, requests, lab.config.slots)
            points.append((share * most, percentile([row["latency"] for row in rows], 95)))
            found[f"{mode}, {share}"] = points[-1][1]
        ax.plot(*zip(*points, strict=True), "o-", label=mode)
        lab.say(f"  {mode:11} " + "   ".join(f"{rate:6.1f}/s {late:6.2f} s" for rate, late in points))
    ax.set(title="95 of 100 have their whole answer within", xlabel="requests a second", ylabel="seconds",
           yscale="log")  # fmt: skip
    plots.legend(ax)
    lab.save(fig, "load.png")
    return found


def chunks(lab) -> dict:
    """While others write, a long prompt comes: read at once, it stops them all."""
    c, found = lab.config, {}
    fig, ((ax,),) = plots.figure(height=3.6)
    long, n = c.context - 8, 24
    for tokens in (c.context, c.context // 4, c.context // 16):
        store = SlotStore(lab.timed, 4, c.context)
        engine, ended = Engine(lab.timed, store, max_batch=4, max_step_tokens=tokens), []
        engine.generate([list(range(1, 9))], Sampling(max_tokens=4, temperature=0))  # warms up
        for i in range(3):
            engine.add([1 + i], Sampling(max_tokens=n, temperature=0, ignore_eos=True))
        reader, came, first = None, None, None
        for step in range(n + 40):
            if step == n // 3:
                reader, came = engine.add([7] * long, Sampling(max_tokens=1, temperature=0)), len(ended)
            events = engine.step() if engine.busy else []
            ended.append(time.perf_counter())
            first = next((ended[-1] - ended[came - 1] for e in events if e.id == reader), first)
        gaps = [1e3 * (after - before) for before, after in pairwise(ended[:n])]
        ax.plot(range(1, n), gaps, "o-", markersize=3, label=f"{tokens} tokens a step")
        lab.say(f"  at most {tokens:5} tokens a step: the others' longest pause {max(gaps):7.1f} ms (usually "
                f"{statistics.median(gaps):.1f}), the long prompt's first token after {1e3 * first:7.1f} ms")
        found |= {f"pause, {tokens}": max(gaps) / 1e3, f"ttft, {tokens}": first}
    ax.set(title=f"A prompt of {long} tokens comes while three write", xlabel="their tokens",
           ylabel="ms since the one before", yscale="log")  # fmt: skip
    plots.legend(ax)
    lab.save(fig, "chunks.png")
    return found


# ---- the host ----


def host(lab) -> dict:
    """What a step's time goes to, by the size of the model; and what a lock around it would cost."""
    c, found, shares = lab.config, {}, {}
    for n_layer, d_model in ((1, 32), (2, 64), (c.n_layer, c.d_model)):
        model, name = lab.build(n_layer, d_model), f"{n_layer} x {d_model}"
        requests = lab.requests(c.requests)
        continuous(model, requests[: c.slots], c.slots)  # warms up
        stats = continuous(model, requests, c.slots)[1]
        total = sum(stats["seconds"].values())
        shares[name] = {what: 100 * stats["seconds"][key] / total for what, key in
                        (("schedule", "schedule"), ("forward", "forward"), ("draw and tell", "draw"))}
        lab.say(f"  {name:8} {1e3 * total / stats['steps']:6.2f} ms a step: "
                + ", ".join(f"{what} {share:.1f} %" for what, share in shares[name].items()))  # fmt: skip
        found[f"schedule, {name}"] = stats["scheduling"]
    fig, ((ax,),) = plots.figure(height=3.4)
    plots.bars(ax, shares, label="{:.0f} %")
    ax.set(title="Where the time goes, % of a step", xlabel="layers x width", ylim=(0, 125))
    plots.legend(ax, loc="upper center", ncols=3)
    lab.save(fig, "host.png")
    for name, wait in (("a lock around each step", lock), ("an inbox", inbox)):
        found[name] = wait(lab)
        lab.say(f"  four threads add requests, {name:23}: {1e6 * found[name]:9.1f} us each, at the median")
    return found


def clients(lab, put):
    """Four threads put in requests while the owner steps; seconds that a `put` takes, at the median."""
    taken, requests = [], lab.requests(lab.config.slots)

    def client():
        for one in requests[:8]:
            began = time.perf_counter()
            put(one)
            taken.append(time.perf_counter() - began)
            time.sleep(1e-3)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield threads
    yield statistics.median(taken)


def lock(lab):
    """Seconds to add a request where everybody calls the engine, under one lock."""
    engine, door = built(lab.timed, lab.requests(lab.config.slots), lab.config.slots), threading.Lock()

    def put(one):
        with door:
            engine.add(one.prompt, one.sampling)

    run = clients(lab, put)
    threads = next(run)
    while any(thread.is_alive() for thread in threads) or engine.busy:
        with door:
            engine.step()
        time.sleep(1e-4)  # or the owner is back at the door before anybody else wakes up
    return next(run)


def inbox(lab):
    """Seconds to add a request where one thread owns the engine, and empties an inbox before each step."""
    engine, box = built(lab.timed, lab.requests(lab.config.slots), lab.config.slots), SimpleQueue()
    run = clients(lab, box.put)
    threads = next(run)
    while any(thread.is_alive() for thread in threads) or engine.busy or not box.empty():
        while not box.empty():
            one = box.get()
            engine.add(one.prompt, one.sampling)
        engine.step()
    return next(run)
