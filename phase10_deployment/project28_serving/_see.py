"""See: how late tokens are under load, what a dashboard shows, where a token's time goes, who serves what."""

import asyncio
import random
import time
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from common import plots
from common.errors import demand

from . import _client, _load, _server
from .router import Router, create_router


def capacity(lab, server):
    """Requests a second that the server answers at most, asked by many at once."""
    some = lab.bodies(lab.config.requests)
    began = time.perf_counter()
    _load.closed(server.url, some, 2 * lab.config.max_batch)
    return len(some) / (time.perf_counter() - began)


def latency(lab) -> dict:
    """First tokens and those between, at a fifth, a half and nine tenths of what the server can do."""
    fig, axes = plots.figure(1, 2, width=10, height=3.8)
    found = {}
    with lab.server() as (server,):
        most = capacity(lab, server)
        for share in (0.2, 0.5, 0.9):
            replies = _load.opened(server.url, lab.bodies(lab.config.requests, seed=1), share * most)
            table = _load.figures(replies)
            for ax, times in ((axes[0, 0], [one.ttft for one in replies if one.ok and one.times]),
                              (axes[0, 1], [gap for one in replies for gap in one.gaps])):  # fmt: skip
                ranked = sorted(1e3 * t for t in times)
                ax.plot(
                    ranked, [100 * (i + 1) / len(ranked) for i in range(len(ranked))], label=f"{share:.0%}"
                )
            lab.say(
                f"  {share:.0%} of {most:.1f} a second: first token p50 {1e3 * table['ttft p50']:.0f}, "
                f"p95 {1e3 * table['ttft p95']:.0f} ms; between two p50 {1e3 * table['itl p50']:.1f}, p99 "
                f"{1e3 * table['itl p99']:.1f} ms; lost {table['lost']}"
            )
            found |= {f"{share:.0%}, {key}": table[key] for key in ("ttft p95", "itl p95", "lost")}
    for ax, title, limit in zip(
        axes[0], ("First token", "Between two tokens"), (_load.TTFT, _load.ITL), strict=True
    ):
        ax.set(xscale="log", xlabel="ms", title=title, ylim=(0, 101))
        ax.axvline(1e3 * limit, color=plots.QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axes[0, 0].set_ylabel("% that came so soon")
    plots.legend(axes[0, 0], title="load", loc="lower right")
    lab.save(fig, "latency.png")
    return found


def scraped(page):
    """{name: value} of a page of figures; of histograms the sum and the count."""
    return {sample.name: sample.value for family in text_string_to_metric_families(page)
            for sample in family.samples if not sample.name.endswith("_bucket")}  # fmt: skip


async def page_of(url):
    return (await _client.ask(url, "/metrics", b"", method="GET")).body.decode()


def dashboard(lab) -> dict:
    """What a dashboard shows while a crowd comes and goes: calm, twice what the server can do, calm."""
    rows, config = [], lab.config
    with lab.server("--places", 2 * config.max_batch) as (server,):
        most = capacity(lab, server)
        times, now = [], 0.0
        for share, seconds in (
            (0.3, config.seconds / 4),
            (2.0, config.seconds / 2),
            (0.3, config.seconds / 4),
        ):
            gap, end = 1 / (share * most), now + seconds
            while now < end:
                times.append(now)
                now += gap

        async def watch():
            began, coming = (
                time.perf_counter(),
                asyncio.ensure_future(
                    _client.at_times(server.url, "/v1/completions", lab.bodies(len(times), seed=2), times)
                ),
            )
            while not coming.done():
                rows.append((time.perf_counter() - began, scraped(await page_of(server.url))))
                await asyncio.sleep(config.seconds / 40)
            return await coming

        replies = asyncio.run(watch())
    draw_dashboard(lab, rows)
    table = _load.figures(replies)
    lab.say(
        f"  {len(replies)} came: {table['served']} answered, {table['refused']} told to come again, "
        f"{table['lost']} lost"
    )
    return {"served": table["served"], "refused": table["refused"], "lost": table["lost"]}


def draw_dashboard(lab, rows):
    """Gauges as they stood, counters as rates, a histogram as the mean of what came since the last time."""
    fig, axes = plots.figure(2, 2, width=10, height=5.6)
    at = [t for t, _ in rows]

    def rate(name):
        return [(b.get(name, 0) - a.get(name, 0)) / (s - t) for (t, a), (s, b) in pairwise(rows)]

    for name in ("running", "waiting"):
        axes[0, 0].plot(at, [page[f"vllm:num_requests_{name}"] for _, page in rows], label=name)
    axes[0, 1].plot(at[1:], rate("vllm:generation_tokens_total"), label="tokens a second")
    axes[1, 0].plot(at, [100 * page["vllm:kv_cache_usage_perc"] for _, page in rows])
    axes[1, 1].plot(at[1:], rate("vllm:request_success_total"), label="answered a second")
    axes[1, 1].plot(at[1:], rate("thirty:requests_refused_total"), label="refused a second")
    titles = "Requests", "Tokens written, a second", "Keys and values, % of the room", "Requests, a second"
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set(title=title, ylim=(0, None))
    for ax in axes[1]:
        ax.set_xlabel("seconds")
    plots.legend(axes[0, 0])
    plots.legend(axes[1, 1])
    lab.save(fig, "dashboard.png")


def routing(lab) -> dict:
    """Chats of several turns over two servers: which share of their prompts is there already, by policy?"""
    found = {}
    with lab.servers(2) as pair:
        for policy in ("round", "least", "prefix"):
            router = Router([one.url for one in pair], policy)
            with _server.in_thread(create_router(router)) as url:
                found[policy] = asyncio.run(chats(lab, url, policy))
            lab.say(
                f"  {policy:7} {found[policy]:6.1%} of the prompts' tokens were there; {dict(router.served)}"
            )
    fig, ((ax,),) = plots.figure(height=3.4, width=6)
    bars = ax.bar(
        list(found), [100 * share for share in found.values()], color=plots.COLOURS[: len(found)], width=0.55
    )
    ax.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=11)
    ax.set(title="Prompt tokens that were there already", ylabel="%", ylim=(0, 105))
    ax.grid(False, axis="x")
    lab.save(fig, "routing.png")
    return {f"{policy}, cached": share for policy, share in found.items()}


async def chats(lab, url, policy, turns=4):
    """Some chats side by side, each turn behind all that was said, whoever is quick first: the share of
    prompt tokens found."""
    rng = random.Random(0)
    openings = [f"{policy} {i}: {_load.text(rng, 120)}" for i in range(lab.config.chats)]
    said = [[{"role": "user", "content": opening}] for opening in openings]
    read = hit = 0
    for _ in range(turns):
        rng.shuffle(said)  # in one and the same order, taking turns would find everybody's server by luck
        bodies = [
            {"model": lab.folder.name, "messages": one, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
            for one in said
        ]
        replies = await _client.in_turn(url, "/v1/chat/completions", bodies, 2)
        for one, reply in zip(said, replies, strict=True):
            demand(reply.ok, f"a server answered {reply.status}: {reply.body.decode()}")
            read += reply.usage["prompt_tokens"]
            hit += reply.usage["prompt_tokens_details"]["cached_tokens"]
            words = "".join(c for c in reply.text if c.isprintable())[:24]
            one += [{"role": "assistant", "content": words}, {"role": "user", "content": "And then?"}]
    return hit / read
