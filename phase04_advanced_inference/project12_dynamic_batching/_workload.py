"""The traffic that is measured: prompts, log-normal answers, Poisson arrivals; and how it is served."""

import math
import random
import time
from dataclasses import dataclass

import torch

from common.generate import Sampling
from phase03_core_inference.project08_kv_cache.kv_cache import greedy

from .batching import run_batch
from .engine import Engine, SlotStore

TIE = 1e-4  # logits this close are as good as equal: in float32 the last digits of two routes differ


@dataclass(frozen=True)
class Request:
    """A prompt, how many tokens to answer with, and when it comes, in seconds from the start."""

    prompt: tuple[int, ...]
    n: int
    at: float = 0.0

    @property
    def sampling(self):
        return Sampling(max_tokens=self.n, temperature=0, ignore_eos=True)


def traffic(count, *, vocab_size, median=16, sigma=1.0, longest=400, prompt=(8, 32), rate=math.inf, seed=0):
    """Requests with answers of log-normal length, cut at `longest`; rate: arrivals a second, Poisson."""
    rng, now, made = random.Random(seed), 0.0, []
    for _ in range(count):
        n = min(longest, max(1, round(rng.lognormvariate(math.log(median), sigma))))
        ids = tuple(rng.randrange(vocab_size) for _ in range(rng.randint(*prompt)))
        made.append(Request(ids, n, now))
        now += rng.expovariate(rate) if math.isfinite(rate) else 0.0
    return made


def built(model, requests, B, *, max_step_tokens=256, **options):
    """An engine with B slots, each as long as the longest of these requests."""
    size = max(len(one.prompt) + one.n for one in requests)
    return Engine(model, SlotStore(model, B, size), max_batch=B, max_step_tokens=max_step_tokens, **options)


def continuous(model, requests, B, **options):
    """All requests at once, in order: ([ids of each], the engine's stats)."""
    engine = built(model, requests, B, **options)
    answers = engine.generate([one.prompt for one in requests], [one.sampling for one in requests])
    return [list(answer.ids) for answer in answers], engine.stats()


# ---- as they arrive, by the clock; a token is out when it is drawn, whoever draws it ----


def waits(one, first, last):
    """What the sender of a request waited, in seconds: first and last are when those tokens were out."""
    return {"ttft": first - one.at, "tpot": (last - first) / max(1, one.n - 1), "latency": last - one.at}


def served(model, requests, B, **options):
    """By the engine: (what each waited, by arrival; the seconds that it all took)."""
    engine, coming, known, first, found = built(model, requests, B, **options), list(requests), {}, {}, {}
    began = time.perf_counter()
    while coming or engine.busy:
        now = time.perf_counter() - began
        while coming and coming[0].at <= now:
            known[engine.add(coming[0].prompt, coming[0].sampling)] = coming[0]
            del coming[0]
        if not engine.busy:
            time.sleep(max(0.0, coming[0].at - now))
            continue
        for event in engine.step():
            now = time.perf_counter() - began
            first.setdefault(event.id, now)
            if event.finish:
                found[event.id] = waits(known[event.id], first[event.id], now)
    return [found[id] for id in sorted(found)], time.perf_counter() - began


def served_in_batches(model, requests, B, max_wait=math.inf):
    """The same by a server that forms batches: of B, or of those who are there after max_wait seconds."""
    found, began = [], time.perf_counter()
    while len(found) < len(requests):
        rest = requests[len(found) :][:B]
        start = min(rest[-1].at, rest[0].at + max_wait)
        time.sleep(max(0.0, start - (time.perf_counter() - began)))
        now, times = max(start, time.perf_counter() - began), []
        members = [one for one in rest if one.at <= now]

        def choose(logits, i, times=times):
            ids = greedy(logits, i)
            ids.tolist()  # waits for the device
            times.append(time.perf_counter() - began)
            return ids

        run_batch(model, [list(one.prompt) for one in members], [one.n for one in members], choose)
        found += [waits(one, times[0], times[one.n - 1]) for one in members]
    return found, time.perf_counter() - began


def percentile(values, p):
    """The p-th percentile, 0 to 100, of a list: the smallest value that p % of them do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(p / 100 * len(ranked)) - 1)]


def spread(found):
    """{"ttft p50": seconds, …}: what half of the requests, 95 and 99 of 100 wait at most."""
    return {f"{name} p{p}": percentile([one[name] for one in found], p)
            for name in ("ttft", "tpot", "latency") for p in (50, 95, 99)}  # fmt: skip


# ---- the same answers? ----


@torch.no_grad()
def differences(model, prompts, mine, theirs):
    """(ties, faults): of the greedy answers that differ, how many first do so at a tie, and how many not.

    In float32 a tie may fall either way, and all that follows with it. Another length is a fault.
    """
    ties = faults = 0
    for ids, a, b in zip(prompts, mine, theirs, strict=True):
        if a == b:
            continue
        i = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), None)
        if i is None or len(a) != len(b):
            faults += 1
            continue
        context = torch.tensor([[*ids, *a[:i]]], device=model.embed.weight.device)
        logits = model.head(model.hidden(context)[0, -1])
        tie = (logits.max() - logits[[a[i], b[i]]].min()).item() <= TIE
        ties, faults = ties + tie, faults + (not tie)
    return ties, faults
