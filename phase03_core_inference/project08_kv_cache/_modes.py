"""Two modes, measured as they should be: each prompt once in each, in turn, warmed, watched from inside."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from common import device as devices

from .kv_cache import KVCache, StaticCache, caches_for, decode, decode_ragged, greedy
from .static import one_row, step_for

MODES = ("no cache", "cache")


@dataclass
class Seen:
    """What the first attention of the model saw: tokens fed, and tokens held in its cache, a forward each."""

    fed: list[int] = field(default_factory=list)
    held: list[int | None] = field(default_factory=list)  # None: it was given no cache

    def mode(self) -> str:
        """The mode that really ran; AssertionError where forwards of both kinds were mixed."""
        assert self.fed, "nothing ran"
        assert len({held is None for held in self.held}) == 1, "some forwards had a cache and some had none"
        return "no cache" if self.held[0] is None else "cache"


@contextmanager
def watched(model) -> Iterator[Seen]:
    """A Seen that fills while the model runs; only the model itself can fill it, no flag does."""
    seen = Seen()

    def look(module, inputs, settings):
        cache = settings.get("cache")
        seen.fed.append(inputs[0].size(1))
        seen.held.append(None if cache is None else getattr(cache, "length", -1))

    handle = model.blocks[0].attn.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


class Clock:
    """A chooser that notes the time of each token it chooses, with the device drained."""

    def __init__(self, device, choose=greedy):
        self.device, self.choose, self.times = device, choose, []

    def __call__(self, logits, i):
        ids = self.choose(logits, i)
        devices.synchronize(self.device)
        self.times.append(time.perf_counter())
        return ids


@dataclass
class Measured:
    """One run: mode (as seen from inside), the new ids (B, n), seconds of each token, what was seen."""

    mode: str
    ids: torch.Tensor
    seconds: list[float]
    seen: Seen
    cache_bytes: int

    @property
    def total(self) -> float:
        return sum(self.seconds)


def measure(model, tokens, n, mode, choose=greedy, kind=KVCache) -> Measured:
    """n tokens after tokens (B, T) in a mode, timed token by token; AssertionError if another mode ran."""
    device = tokens.device
    caches = caches_for(model, kind, tokens.size(0), tokens.size(1) + n) if mode == "cache" else None
    clock = Clock(device, choose)
    with watched(model) as seen:
        devices.synchronize(device)
        start = time.perf_counter()
        ids = decode(model, tokens, n, caches, clock)
    assert seen.mode() == mode, f"asked for {mode}, but {seen.mode()} ran"
    held = sum(x.nbytes for cache in caches or () for x in (cache.k, cache.v))
    moments = [start, *clock.times]
    return Measured(mode, ids, [b - a for a, b in pairwise(moments)], seen, held)


def dual(model, prompts, n, say=lambda line: None) -> dict[str, list[Measured]]:
    """Every prompt (1, T) once in each mode, the first mode changing from prompt to prompt.

    Both modes are warmed first, on the longest and the shortest prompt. AssertionError where they differ.
    """
    for tokens in (min(prompts, key=torch.Tensor.numel), max(prompts, key=torch.Tensor.numel)):
        for mode in MODES:
            measure(model, tokens, 2, mode)
    found = {mode: [] for mode in MODES}
    for number, tokens in enumerate(prompts):
        for mode in MODES[:: 1 if number % 2 else -1]:
            found[mode].append(measure(model, tokens, n, mode))
        pair = [found[mode][-1] for mode in MODES]
        assert equal_but_ties(model, tokens, pair[0].ids, pair[1].ids), f"prompt {number}: the texts differ"
        say(f"  {tokens.size(1):4} + {n} tokens: "
            + "   ".join(f"{run.mode} {1e3 * run.total / n:7.2f} ms/token" for run in pair))  # fmt: skip
    return found


@torch.no_grad()
def equal_but_ties(model, tokens, a, b) -> bool:
    """Are two answers (B, n) the same, but for a step whose two highest logits lie within 1e-4?

    In float32 the last digits of two routes differ, and where two tokens are as good as equally likely, so
    may the choice; what follows is then another text.
    """
    for row, first, second in zip(tokens, a, b, strict=True):
        differ = (first != second).nonzero()
        if len(differ):
            context = torch.cat((row, first[: int(differ[0])]))[None]
            best = model.head(model.hidden(context)[:, -1]).topk(2).values[0]
            if best[0] - best[1] > 1e-4:
                return False
    return True


class Fastest:
    """The static cache and its one graph, for prompts (1, T): compiled once, used for every answer."""

    def __init__(self, model, size, rows=1, **options):
        self.model, self.caches = one_row(model), caches_for(model, StaticCache, rows, size)
        self.step = step_for(model, self.caches, rows, **options)

    def __call__(self, tokens, n, choose=greedy):
        """n tokens after tokens (B, T): (B, n). What an earlier answer left in the caches is never seen."""
        return decode_ragged(self.model, tokens.tolist(), n, self.caches, choose, self.step)
