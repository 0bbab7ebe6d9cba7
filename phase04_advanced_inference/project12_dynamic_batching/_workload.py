"""The traffic that is measured: prompts, log-normal answers, Poisson arrivals; and how it is run."""

import math
import random
import time
from dataclasses import dataclass

from common.generate import Sampling

from .engine import Engine, SlotStore


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


def served(model, requests, B, **options):
    """Requests as they arrive, by the clock: the engine's stats, and the seconds that it all took."""
    engine, coming = built(model, requests, B, **options), list(requests)
    began = time.perf_counter()
    while coming or engine.busy:
        now = time.perf_counter() - began
        while coming and coming[0].at <= now:
            one = coming.pop(0)
            engine.add(one.prompt, one.sampling)
        if engine.busy:
            engine.step()
        elif coming:
            time.sleep(coming[0].at - now)
    return engine.stats(), time.perf_counter() - began


def percentile(values, p):
    """The p-th percentile, 0 to 100, of a list: the smallest value that p % of them do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(p / 100 * len(ranked)) - 1)]
