"""The traffic that is measured, and what is read off it: percentiles, the objective, what was lost."""

import asyncio
import math
import random
import statistics
from functools import lru_cache

from common import hub, tokenizer
from common.cli import restores

from . import _client

TTFT, ITL = 1.0, 0.1  # the objective: 95 of 100 first tokens, and of the others, within so many seconds
WORDS = (
    "Mara",
    "Joss",
    "Tilda",
    "Ben",
    "Lena",
    "Ola",
    "Pim",
    "Rosa",
    "works",
    "lives",
    "in",
    "the",
    "mill",
    "at",
    "market",
    "a",
    "baker",
    "friend",
    "dog",
    "likes",
    "rain",
    "and",
    "story",
)


def text(rng, length):
    """Some words, about so many characters."""
    said = ""
    while len(said) < length:
        said += rng.choice(WORDS) + " "
    return said.strip()


@lru_cache(4)
def reads(folder):
    """A model's tokenizer, and how many tokens it can look at."""
    return tokenizer.load(folder), hub.load(folder, restore=restores.table()).config.max_seq_len


def fitted(folder, said, new):
    """As much of the beginning of a text as leaves room for so many new tokens."""
    words, context = reads(folder)
    while len(words.encode(said)) > context - new:
        said = said[: 9 * len(said) // 10]
    return said


def bodies(folder, count, *, median=16, longest=128, prompt=(40, 160), stream=True, seed=0, shared=""):
    """Requests for text with prompts of different lengths and answers of log-normal ones, as the context of a
    model folder has room for."""
    rng, made = random.Random(seed), []
    longest = min(longest, reads(folder)[1] // 2)
    for _ in range(count):
        n = min(longest, max(1, round(rng.lognormvariate(math.log(median), 0.8))))
        made.append(
            {
                "model": folder.name,
                "prompt": fitted(folder, shared + text(rng, rng.randint(*prompt)), n),
                "max_tokens": n,
                "temperature": 0,
                "ignore_eos": True,
                "stream": stream,
            }
        )
    return made


def arrivals(count, rate, seed=0):
    """When a crowd comes that knows nothing of one another: a Poisson process of `rate` a second."""
    rng, now, times = random.Random(seed), 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        times.append(now)
    return times


def percentile(values, p):
    """The smallest value that p % of them do not exceed; 0 of none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(p / 100 * len(ranked)) - 1)] if ranked else 0.0


def closed(url, some, clients, path="/v1/completions"):
    """So many clients, each with one request at a time: replies."""
    return asyncio.run(_client.in_turn(url, path, some, clients))


def opened(url, some, rate, seed=0, path="/v1/completions"):
    """As they come, at `rate` a second: replies."""
    return asyncio.run(_client.at_times(url, path, some, arrivals(len(some), rate, seed)))


def figures(replies):
    """{ttft p50, …, itl p99: seconds}, counts, and output tokens a second."""
    served = [reply for reply in replies if reply.ok and reply.times]
    gaps = [gap for reply in served for gap in reply.gaps]
    first = [reply.ttft for reply in served]
    span = max(reply.ended for reply in replies) - min(reply.sent for reply in replies)
    found = {f"ttft p{p}": percentile(first, p) for p in (50, 95, 99)}
    found |= {f"itl p{p}": percentile(gaps, p) for p in (50, 95, 99)}
    return found | {
        "served": len(served),
        "refused": sum(reply.status in (429, 503) for reply in replies),
        "lost": lost(replies),
        "seconds": span,
        "requests/s": len(served) / span,
    }


def lost(replies):
    """Requests that got neither a whole answer nor a refusal that says when to come again."""
    return sum(
        not reply.ok and not (reply.status in (429, 503) and "retry-after" in reply.headers)
        for reply in replies
    )


def kept(found):
    """Is the objective met, with nobody refused and nobody lost?"""
    return found["ttft p95"] <= TTFT and not found["itl p95"] > ITL and not found["refused"] + found["lost"]


def most_at_objective(try_rate, high, rounds):
    """The highest rate at which the objective is met, by halving: (rate, {rate: figures}). 0: at none."""
    low, tried = 0.0, {}
    for _ in range(rounds):
        rate = high if not tried else (low + high) / 2
        tried[rate] = found = try_rate(rate)
        if kept(found):
            low = rate
            if rate == high:
                break
        else:
            high = rate
    return low, tried


def middle(values):
    return statistics.median(values)
