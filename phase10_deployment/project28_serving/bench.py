"""Measure the claims: HTTP beside the engine alone, waiting times, overload, losses, what techniques add."""

import asyncio
import signal
import threading
import time

import torch

from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.errors import UserError
from common.generate import Sampling

from . import _client, _load, _server
from ._gpu import bench_gpu
from ._ladder import Offline, bench_ablation, pin
from ._rival import bench_transformers
from .router import Router, create_router

CLIENTS = 32
PATH = "/v1/completions"


def alike(a, b):
    """float32: two routes may part where two tokens are as good as equal; in 95 of 100 they agree."""
    return sum(x != y for x, y in zip(a, b, strict=True)) <= max(1, 0.05 * len(a))


def texts_over(url, some, clients=CLIENTS, path=PATH):
    replies = _load.closed(url, some, clients, path)
    if failed := [reply for reply in replies if not reply.ok]:
        raise UserError(
            f"{len(failed)} of {len(some)} requests failed: {failed[0].status} {failed[0].body!r}"
        )
    return [reply.text for reply in replies]


def bench_http(b, folder, server):
    """HTTP throughput on one core, streamed and whole, beside the engine alone on that core."""
    count = b.pick(smoke=6, quick=64, full=192)
    longest = b.pick(smoke=6, quick=96, full=128)
    some = _load.bodies(folder, count, median=b.pick(smoke=4, quick=24, full=32), longest=longest)
    offline = Offline(folder, device=b.device, prefix_cache=False)
    tokens = sum(one["max_tokens"] for one in some)

    def alone():
        pin({0})
        return offline.run(some)

    def over(stream):
        def run():
            pin({1})
            return texts_over(server.url, [{**one, "stream": stream} for one in some])

        return run

    run = b.compare(
        {"engine alone": alone, "HTTP, whole": over(False), "HTTP, streamed": over(True)},
        check=alike,
        memory=False,
    )
    pin({0, 1})
    how = {"clients": CLIENTS, "requests": count, "tokens": tokens}
    for id, side in (("http", "HTTP, streamed"), ("http-whole", "HTTP, whole")):
        b.claim(
            id,
            f"Over {side}, 32 clients get at least 0.95 of the tokens a second that the engine gives "
            "alone, on one core",
            unit="tok/s",
            better="higher",
            goal=(">=", 0.95),
            bound=1.0,
            measured=run.figures(side, work=tokens),
            settings=how,
            why="one core computes, parses, and writes a line for every token",
        )
    return offline, count / run.sides["engine alone"].median


def bench_waiting(b, folder, server, offline, most):
    """TTFT at low load beside a prefill alone; ITL; and the rate at which the objective is met."""
    count = b.pick(smoke=5, quick=40, full=120)
    some = _load.bodies(folder, count, seed=1, longest=b.pick(smoke=6, quick=96, full=128))
    pin({0})
    alone = []
    for one in some[:20]:
        ids, began = offline.words.encode(one["prompt"]), time.perf_counter()
        offline.engine.generate([ids], [Sampling(max_tokens=1, temperature=0)])
        alone.append(1e3 * (time.perf_counter() - began))
    pin({1})
    low = _load.figures(_load.opened(server.url, some, max(0.1 * most, 1e-3), seed=1))
    extra = 1e3 * low["ttft p50"] - _load.middle(alone)
    b.claim(
        "ttft",
        "At a tenth of what the engine can do, half of the first tokens come at most 10 ms "
        "later than a prefill alone takes",
        unit="ms",
        better="lower",
        goal=("<=", 10),
        measured=values("server", [extra]),
        settings={"prefill alone, ms": _load.middle(alone), **low},
    )
    half = _load.figures(_load.opened(server.url, some, 0.5 * most, seed=2))
    b.claim(
        "itl",
        "At half of what the engine can do, 99 of 100 tokens follow within twice the median",
        unit="p99 / p50",
        better="lower",
        goal=("<=", 2),
        settings=half,
        measured=values("server", [half["itl p99"] / max(half["itl p50"], 1e-6)]),
        why="a step in which somebody's prompt is read is longer than one that only writes",
    )
    rate, tried = _load.most_at_objective(
        lambda rate: _load.figures(_load.opened(server.url, some, rate, seed=3)),
        most,
        b.pick(smoke=2, quick=4, full=6),
    )
    pin({0, 1})
    table = {
        f"{at:.2f} a second: {key}": found[key]
        for at, found in tried.items()
        for key in ("ttft p95", "itl p95")
    }
    b.claim(
        "objective",
        "With 95 of 100 first tokens within 1 s and 95 of 100 others within 100 ms, the server "
        "takes at least half of the requests a second that the engine can do at most",
        headline=True,
        unit="requests/s",
        better="higher",
        goal=(">=", 0.5),
        bound=1.0,
        measured=values("at the objective", [max(rate, 1e-3)], "engine, all at once", [most]),
        settings={"requests": count, **table},
        why="arrivals come by chance: a server that is always busy has a queue",
    )


def bench_overload(b, folder, server, most):
    """Twice what it can do, for minutes: who is lost, and does memory grow?"""
    seconds, before = b.pick(smoke=1.0, quick=15.0, full=300.0), server.rss()
    some = _load.bodies(
        folder, max(8, int(2 * most * seconds)), seed=4, longest=b.pick(smoke=6, quick=96, full=128)
    )
    found = _load.figures(_load.opened(server.url, some, 2 * most, seed=4))
    after = server.rss()
    b.claim(
        "overload",
        "At twice what it can do, every request is answered, or refused with a time to come again",
        unit="requests lost",
        better="lower",
        goal=("==", 0),
        measured=values("server", [float(found["lost"])]),
        settings={"sent": len(some), **found},
    )
    if before and after:
        b.claim(
            "memory",
            "Memory grows by at most a tenth meanwhile",
            unit="bytes",
            better="lower",
            goal=("<=", 1.1),
            measured=values("after", [float(after)], "before", [float(before)]),
        )

    async def leave():
        for one in _load.bodies(folder, b.pick(smoke=8, quick=200, full=2000), longest=400, median=200):
            reader, writer = await _client.connect(server.url)
            writer.write(_client.request(PATH, one))
            await asyncio.wait_for(reader.readline(), 30)
            writer.transport.abort()
        await asyncio.sleep(1)

    asyncio.run(leave())
    page = _server.get(server.url + "/thirty/engine")
    b.claim(
        "leaks",
        "After many clients that hung up, no block is held",
        unit="of the blocks",
        better="lower",
        goal=("==", 0),
        measured=values("server", [page["stats"]["used"]]),
    )


def bench_replica(b, folder, arguments):
    """Two servers, one of which is killed under load: who is lost?"""
    count = b.pick(smoke=8, quick=60, full=200)
    some = _load.bodies(folder, count, seed=5, longest=b.pick(smoke=6, quick=96, full=128))
    with (
        _server.replicas(2, *arguments) as pair,
        _server.in_thread(create_router(router := Router([one.url for one in pair]), every=0.2)) as url,
    ):
        threading.Timer(b.pick(smoke=0.2, quick=1.0, full=3.0), lambda: pair[0].stop(signal.SIGKILL)).start()
        replies = _load.closed(url, some, 8)
    silent = sum(not reply.ok and not reply.times and not reply.text for reply in replies)
    b.claim(
        "replica",
        "A server that is killed costs only the answers that it was writing",
        unit="others lost",
        better="lower",
        goal=("==", 0),
        measured=values("router", [float(silent)]),
        settings={
            "requests": count,
            "answers broken off": sum(not reply.ok for reply in replies) - silent,
            "asked again elsewhere": router.retries,
        },
    )


def main(b):
    torch.set_num_threads(1)
    folder = chain.find("sft", say=b.say)
    arguments = ["--model", str(folder), "--no-prefix_cache", "--inspect", "--device", b.device.type]
    server = _server.Replica(*arguments, cores=[0]).ready()
    try:
        offline, most = bench_http(b, folder, server)
        bench_waiting(b, folder, server, offline, most)
        bench_transformers(b, folder, server)
        bench_overload(b, folder, server, most)
    finally:
        server.stop()
    bench_ablation(b, folder)
    bench_replica(b, folder, arguments)
    bench_gpu(b, folder, texts_over, alike)


def profiled(b):
    folder = chain.find("sft", say=b.say)
    offline, some = Offline(folder), _load.bodies(folder, 8, longest=16)
    return lambda: offline.run(some)


if __name__ == "__main__":
    bench(main, profiled)
