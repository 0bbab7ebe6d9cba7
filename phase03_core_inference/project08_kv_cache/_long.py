"""The long comparison: cached steps timed one by one, uncached ones in between, at every so many tokens.

An uncached answer of a thousand tokens takes minutes, and its steps differ by length alone. So one in sixteen
is timed, among the cached ones, and a parabola through them is summed: a step costs a + b·S + c·S² by the
arithmetic. Several runs share the sixteenths out between them, so each gives a total of its own.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch

from common import device as devices

from ._modes import equal_but_ties
from .kv_cache import greedy


class Interleaved:
    """A chooser that times the cached steps, and at the tokens that are due an uncached one beside them.

    cached: seconds of each step, the first with the prompt; uncached: {tokens fed: seconds}.
    AssertionError where the uncached step would have chosen another token, and it is no tie.
    """

    def __init__(self, model, prompt, due):
        self.model, self.tokens, self.due = model, prompt, set(due)
        self.cached, self.uncached, self.resumed = [], {}, None

    def begin(self):
        devices.synchronize(self.tokens.device)
        self.resumed = time.perf_counter()

    @torch.no_grad()
    def __call__(self, logits, i):
        ids = greedy(logits, i)
        devices.synchronize(self.tokens.device)
        self.cached.append(time.perf_counter() - self.resumed)
        if i in self.due:
            start = time.perf_counter()
            anew = greedy(self.model.head(self.model.hidden(self.tokens)[:, -1]), i)
            devices.synchronize(self.tokens.device)
            self.uncached[self.tokens.size(1)] = time.perf_counter() - start
            assert equal_but_ties(self.model, self.tokens, anew[:, None], ids[:, None]), f"token {i} differs"
        self.tokens = torch.cat((self.tokens, ids[:, None]), 1)
        self.begin()
        return ids


@dataclass(frozen=True)
class Run:
    """One run: seconds of its cached steps, and the parabola of the uncached ones."""

    prompt: int
    cached: list[float]
    uncached: dict[int, float]

    def curve(self) -> np.ndarray:
        """Seconds of every uncached step, by the parabola in least squares."""
        lengths = np.array(list(self.uncached), float)
        line = np.polyfit(lengths, list(self.uncached.values()), min(2, len(lengths) - 1))
        return np.polyval(line, np.arange(self.prompt, self.prompt + len(self.cached)))

    def totals(self) -> tuple[float, float]:
        """Seconds of the whole answer: (uncached, cached)."""
        return float(self.curve().sum()), sum(self.cached)


def long_run(model, answer, prompt, new, every, offset=0) -> Run:
    """`answer(prompt, new, choose)` once, uncached steps at offset, offset + every, …"""
    chooser = Interleaved(model, prompt, range(offset, new, every))
    chooser.begin()
    answer(prompt, new, chooser)
    return Run(prompt.size(1), chooser.cached, chooser.uncached)


def crossing(runs, ratio, farthest=20_000) -> tuple[int | None, bool]:
    """(new tokens after which the whole answer is `ratio` times as fast, whether that was measured).

    Beyond what was measured, both sides go on as they did: the uncached along the parabola, the cached along
    a straight line. None: not within `farthest`.
    """
    cached, measured = np.mean([run.cached for run in runs], axis=0), len(runs[0].cached)
    steps = np.arange(farthest)
    whole = {length: seconds for run in runs for length, seconds in run.uncached.items()}
    lengths = np.array(list(whole), float)
    curve = np.polyval(np.polyfit(lengths, list(whole.values()), min(2, len(lengths) - 1)),
                       runs[0].prompt + steps)  # fmt: skip
    line = np.polyval(np.polyfit(np.arange(1, measured), cached[1:], min(1, measured - 2)), steps)
    line[:measured] = cached
    reached = np.nonzero(curve.cumsum() >= ratio * line.cumsum())[0]
    return (None, False) if len(reached) == 0 else (int(reached[0]) + 1, bool(reached[0] < measured))
