"""Break: what happens without each of the things that a server has and a demo has not."""

import asyncio
import queue
import signal
import threading
import time

import torch

from common import plots
from common.generate import Sampling

from . import _client, _load, _server
from .router import Router, create_router


def overload(lab) -> dict:
    """Twice what it can do: with a door that says no, and with one that lets everybody in."""
    found, fig = {}, plots.figure(height=3.8)
    ((ax,),) = fig[1]
    for name, places in (("a door", lab.config.max_batch * 2), ("no door", 100_000)):
        with lab.server("--places", places) as (server,):
            some = lab.bodies(lab.config.requests)
            began = time.perf_counter()
            _load.closed(server.url, some, lab.config.max_batch)
            most = len(some) / (time.perf_counter() - began)
            count = max(8, int(2 * most * lab.config.seconds))
            replies = _load.opened(server.url, lab.bodies(count, seed=3), 2 * most)
        table, start = _load.figures(replies), min(one.sent for one in replies)
        served = [one for one in replies if one.ok and one.times]
        ax.plot(
            [one.sent - start for one in served], [one.ttft for one in served], ".", markersize=4, label=name
        )
        lab.say(
            f"  {name:8} {table['served']:4} answered, {table['refused']:4} told to come again; first token "
            f"p95 {table['ttft p95']:.2f} s"
        )
        found |= {
            f"{name}, ttft p95": table["ttft p95"],
            f"{name}, refused": table["refused"],
            f"{name}, lost": table["lost"],
        }
    ax.set(
        title="Twice what the server can do",
        xlabel="when it was sent, s",
        ylabel="first token after, s",
        ylim=(0, None),
    )
    plots.legend(ax)
    lab.save(fig[0], "overload.png")
    return found


def hangup(lab) -> dict:
    """Clients close their window: where nobody listens for that, the engine goes on writing for them."""
    found = {}
    for name, listens in (("listening", True), ("deaf", False)):
        service = lab.service()
        if not listens:
            service.loop.cancel = lambda ticket: None
        with _server.in_thread(_server.created(service)) as url:
            asyncio.run(leave(lab, url))
            until = time.monotonic() + (20 if listens else 0.3)
            while service.loop.tickets and time.monotonic() < until:
                time.sleep(0.01)
            found[name] = len(service.loop.tickets)
            service.loop.stopping = True
        lab.say(
            f"  {name}: {found[name]} of 4 requests go on, {service.loop.engine.used():.0%} of the room held"
        )
    return {f"{name}, still running": n for name, n in found.items()}


async def leave(lab, url):
    for _ in range(4):
        reader, writer = await _client.connect(url)
        body = {
            "model": lab.folder.name,
            "prompt": "Once",
            "max_tokens": 4000,
            "ignore_eos": True,
            "stream": True,
        }
        writer.write(_client.request("/v1/completions", body))
        await reader.readuntil(b"data: ")
        writer.transport.abort()


def replica(lab) -> dict:
    """A server is killed under load: a router that asks again, and one that passes the failure on."""
    found = {}
    for name, attempts in (("asks again", 3), ("gives up", 1)):
        with lab.servers(2) as pair:
            app = create_router(router := Router([one.url for one in pair], "round"), every=30)
            app.state.proxy.attempts = attempts
            with _server.in_thread(app) as url:
                threading.Timer(lab.config.seconds / 8, lambda one=pair[0]: one.stop(signal.SIGKILL)).start()
                replies = _load.closed(url, lab.bodies(lab.config.requests, seed=4), 8)
        broken = sum(one.error is not None for one in replies)
        failed = sum(not one.ok for one in replies)
        lab.say(
            f"  {name:10} {failed} of {len(replies)} failed, {broken} of them in the middle of an answer; "
            f"{router.retries} were asked again"
        )
        found |= {f"{name}, failed": failed, f"{name}, retries": router.retries}
    return found


def sidechannel(lab) -> dict:
    """A stranger guesses what another has asked: by the time of the first token, with and without a salt."""
    found, fig = {}, plots.figure(1, 2, width=9, height=3.4)
    n = min(400, lab.context - 8)
    for ax, (name, shared) in zip(
        fig[1][0], (("one cache for all", True), ("a cache for each key", False)), strict=True
    ):
        engine = lab.service(switches={"shared_prefixes": shared}).loop.engine
        times = {"asked before": [], "never asked": []}
        for i in range(lab.config.guesses):
            generator = torch.Generator().manual_seed(i)
            secret, other = torch.randint(5, 200, (2, n), generator=generator).tolist()
            first_token(engine, secret, "anna")
            times["asked before"].append(first_token(engine, secret, "eve"))
            times["never asked"].append(first_token(engine, other, "eve"))
        most = 1.2 * _load.percentile([t for some in times.values() for t in some], 95)
        edges = [1e3 * most * i / 24 for i in range(25)]  # one scale for both heaps; the slowest at its end
        for kind, some in times.items():
            ax.hist([1e3 * min(t, most) for t in some], bins=edges, alpha=0.75, label=kind)
        ax.set(title=name, xlabel="first token after, ms")
        ax.yaxis.get_major_locator().set_params(integer=True)
        line = sorted(times["never asked"])[len(times["never asked"]) // 2]
        right = sum(t < 0.8 * line for t in times["asked before"]) / lab.config.guesses
        lab.say(f"  {name}: a stranger takes {right:.0%} of the secrets for asked before")
        found[f"{name}, found out"] = right
    fig[1][0, 0].set_ylabel("prompts")
    plots.legend(fig[1][0, 0])
    lab.save(fig[0], "sidechannel.png")
    return found


def first_token(engine, ids, tenant):
    """Seconds to the first token of a prompt."""
    began = time.perf_counter()
    engine.begin(ids, Sampling(max_tokens=1, temperature=0), tenant=tenant)
    while engine.busy:
        engine.step()
    return time.perf_counter() - began


def lock(lab) -> dict:
    """How long it takes to put a request in: an inbox, and a lock around each step."""
    engine, guard, stop = lab.service().loop.engine, threading.Lock(), threading.Event()
    engine.begin([5, 6, 7], Sampling(max_tokens=4000, ignore_eos=True))

    def drive():
        while not stop.is_set() and engine.busy:
            with guard:
                engine.step()

    thread, waits, inbox = threading.Thread(target=drive), [], queue.SimpleQueue()
    thread.start()
    for _ in range(lab.config.guesses):
        began = time.perf_counter()
        with guard:
            waits.append(time.perf_counter() - began)
        time.sleep(0.002)
    puts = []
    for i in range(lab.config.guesses):
        began = time.perf_counter()
        inbox.put(i)
        puts.append(time.perf_counter() - began)
    stop.set()
    thread.join()
    found = {"lock, p95": _load.percentile(waits, 95), "inbox, p95": _load.percentile(puts, 95)}
    lab.say(
        f"  95 of 100 get in within {1e6 * found['lock, p95']:.0f} µs past a lock, and within "
        f"{1e6 * found['inbox, p95']:.0f} µs by an inbox"
    )
    return found
