"""One way to measure, for every bench in the repository: `compare` runs its sides interleaved in one process,
until the interval of their ratio is narrow enough.

**The estimator.** A *block* runs every side once. A *round* is two blocks, the second in reverse: A B B A. A
machine that gets steadily slower adds to the log-ratio of one block what it takes from the other's, so their
mean y is free of it; the next round begins with the next side. The ratio is exp(median of y) over rounds: a
run disturbed from outside moves a median little. Its interval is the *expanded percentile* bootstrap of that
median, 95 %: plain percentiles of 6 to 15 rounds cover the truth in 88 to 93 of 100 cases, so their level is
widened to what Student's interval would need (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap", The American Statistician 69:4). To look after every round and stop at the first narrow interval
would undo that: it is looked at after 8, 16, 32, … rounds. Fewer than 6 rounds: no interval is to be had.
"""
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from common import device as devices
from common.profiling import peak_of
from common.results import Figure

FEWEST = 6  # rounds for an interval
FIRST_LOOK = 8  # rounds before the interval is first looked at


class WrongAnswer(Exception):
    """Two sides of a comparison do not give the same answer, so there is nothing to time."""


@dataclass(frozen=True)
class Side:
    """The runs of one side, in seconds a call; a run was `loops` calls. `peak_memory`: see `peak_of`."""
    name: str
    seconds: tuple[float, ...]
    loops: int = 1
    peak_memory: int | None = None
    counts: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cv(self) -> float | None:
        """Standard deviation over mean; None for a single run."""
        return statistics.stdev(self.seconds) / statistics.fmean(self.seconds) if self.seconds[1:] else None

    @property
    def unsteady(self) -> bool:
        return self.cv is not None and self.cv > 0.10


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. The first side is the baseline. `others` is the share of this machine's
    processors that other processes used meanwhile; None where the system does not say."""
    sides: Mapping[str, Side]
    others: float | None = None

    @property
    def baseline(self) -> str:
        return next(iter(self.sides))

    @property
    def rounds(self) -> float:
        """How often A B B A was run; a half is one block more."""
        return len(self.sides[self.baseline].seconds) / 2

    def speedup(self, ours: str, baseline: str | None = None) -> tuple[float, tuple[float, float] | None]:
        """(how many times faster `ours` is than the baseline, its 95 % interval or None)."""
        return ratio(self.sides[ours].seconds, self.sides[baseline or self.baseline].seconds)

    def figures(self, ours: str, baseline: str | None = None, work: float | None = None) -> dict:
        """What a Claim takes from this: in seconds a call, or in `work` done a second.

        With work (tokens a call, say) the unit is tokens/s and a ratio of 2 is twice as fast; without it the
        unit is s and the same finding is a ratio of 0.5.
        """
        value, interval = self.speedup(ours, baseline)
        if work is None:
            value, interval = 1 / value, interval and (1 / interval[1], 1 / interval[0])
        pair = {"baseline": self.sides[baseline or self.baseline], "ours": self.sides[ours]}
        runs = {role: [work / s if work else s for s in side.seconds] for role, side in pair.items()}
        figures = {role: Figure(side.name, statistics.median(runs[role]), side.cv, side.unsteady,
                                side.peak_memory, dict(side.counts)) for role, side in pair.items()}
        samples = {side.name: [float(f"{run:.6g}") for run in runs[role]] for role, side in pair.items()}
        how = {"rounds": self.rounds, "processors used by others": self.others}
        return {"ratio": value, "interval": interval, "samples": samples, "settings": how, **figures}


def values(ours: str, runs: Sequence[float], baseline: str | None = None,
           against: Sequence[float] | None = None) -> dict:
    """What `Comparison.figures` gives, for what no clock measures, such as losses: medians and their ratio.

    `runs` and `against` belong together in pairs, by seed or document; without a baseline there is no ratio.
    """
    def figure(name, numbers):
        mean = statistics.fmean(numbers)
        cv = statistics.stdev(numbers) / abs(mean) if len(numbers) > 1 and mean else None
        return Figure(name, statistics.median(numbers), cv)

    alone = {"ours": figure(ours, runs), "samples": {ours: list(runs)}}
    if baseline is None:
        return alone
    value, interval = paired(runs, against)
    return {**alone, "baseline": figure(baseline, against), "ratio": value, "interval": interval,
            "samples": {baseline: list(against), ours: list(runs)}}


# --- the estimator ------------------------------------------------------------------------------------------

def ratio(ours: Sequence[float], baseline: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """(baseline / ours, its 95 % interval) of runs in the order of `compare`: blocks, two to a round."""
    blocks = np.log(np.asarray(baseline, float) / np.asarray(ours, float))
    return estimate([blocks[i:i + 2].mean() for i in range(0, len(blocks), 2)])


def paired(ours: Sequence[float], baseline: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """(ours / baseline, its 95 % interval) of values that belong in pairs: a seed's, a document's."""
    return estimate(np.log(np.asarray(ours, float) / np.asarray(baseline, float)))


def estimate(logs: Sequence[float], resamples: int = 2000) -> tuple[float, tuple[float, float] | None]:
    """exp(median) of independent log-ratios, and its expanded-percentile bootstrap interval (see above)."""
    logs, n = np.asarray(logs, float), len(logs)
    middle = math.exp(np.median(logs))
    if n < FEWEST:
        return middle, None
    draws = np.random.default_rng(0).integers(0, n, (resamples, n))
    tail = statistics.NormalDist().cdf(-math.sqrt(n / (n - 1)) * student(n - 1))
    low, high = np.exp(np.quantile(np.median(logs[draws], axis=1), [tail, 1 - tail]))
    return middle, (min(middle, float(low)), max(middle, float(high)))


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.2 % from five degrees of freedom on.

    Fisher & Cornish 1960, "The Percentile Points of Distributions Having Known Cumulants", Technometrics 2:2.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96,
             (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**k for k, term in enumerate(terms, start=1))


# --- running the sides --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Stopwatch:
    """Times calls with the device drained before and after: what was queued earlier is not charged to a
    side, and what the side queues is."""
    timer: Callable[[], float]
    synchronize: Callable[[], None]

    def __call__(self, call: Callable, loops: int = 1) -> tuple[float, object]:
        """(seconds a call, what the last call returned)"""
        self.synchronize()
        start = self.timer()
        for _ in range(loops):
            output = call()
        self.synchronize()
        return (self.timer() - start) / loops, output


def compare(sides: Mapping[str, Callable[[], object]], *, check: Callable[[object, object], bool] | float,
            device: str | torch.device = "cpu", counts: Mapping[str, Mapping[str, float]] | None = None,
            budget: float = 60.0, target: float = 0.05, shortest: float = 5e-3, warm: bool = True,
            memory: bool = True, max_rounds: int = 256, timer: Callable[[], float] = time.perf_counter,
            synchronize: Callable[[], None] | None = None) -> Comparison:
    """Time two or more sides against the first, the baseline, interleaved: A B B A, B A A B, …

    Ends when every interval is narrower than `target` (0.05: from low to high is 5 % of the ratio), or before
    `budget` seconds are overrun; at least one block is run. `check(baseline's output, side's output)` must
    hold before anything is timed, else WrongAnswer; a number is a tolerance for `same`. A side shorter than
    `shortest` seconds is called in a loop. warm=False is for sides of minutes, such as whole trainings: no
    run before the timed ones, no peak memory, and the outputs of the first block are checked before a figure
    is given out. memory=False spares the one call of each side under the profiler, which small operations
    make slow. `counts` are what no machine can change: {side: {"FLOPs": …}}.
    """
    if len(sides) < 2:
        raise ValueError("a comparison has at least two sides")
    device, load = torch.device(device), Load()
    watch = Stopwatch(timer, synchronize or (lambda: devices.synchronize(device)))
    loops, peaks = dict.fromkeys(sides, 1), dict.fromkeys(sides)
    if warm:
        agree({name: watch(call)[1] for name, call in sides.items()}, check)
        peaks |= {name: peak_of(call, device) for name, call in sides.items() if memory}
        loops = {name: calibrate(watch, call, shortest) for name, call in sides.items()}
    seconds, began = {name: [] for name in sides}, timer()
    for block in range(2 * max_rounds):
        outputs = {}
        for name in order(list(sides), block):
            spent, outputs[name] = watch(sides[name], loops[name])
            seconds[name].append(spent)
        if block == 0 and not warm:
            agree({name: outputs[name] for name in sides}, check)
        if finished(list(seconds.values()), timer() - began, budget, target):
            break
    return Comparison({name: Side(name, tuple(seconds[name]), loops[name], peaks[name],
                                  (counts or {}).get(name, {})) for name in sides}, load.others())


def order(names: list[str], block: int) -> list[str]:
    """Who runs in which order: every second block in reverse, every round begins one side further."""
    start = block // 2 % len(names)
    turned = names[start:] + names[:start]
    return turned[::-1] if block % 2 else turned


def calibrate(watch: Stopwatch, call: Callable, shortest: float) -> int:
    """How many calls make a run of at least `shortest` seconds; warms the side up on the way."""
    loops = 1
    while loops < 1_000_000:
        spent = watch(call, loops)[0] * loops
        if spent < 10 * shortest:  # a hiccup of the machine is not the length of the side
            spent = min(spent, watch(call, loops)[0] * loops)
        if spent >= shortest:
            break
        loops = min(10 * loops, max(2 * loops, math.ceil(1.2 * loops * shortest / max(spent, 1e-9))))
    return loops


def finished(seconds: list[list[float]], spent: float, budget: float, target: float) -> bool:
    """Would another block overrun the budget, or is this a round to look at, and every interval narrow?"""
    blocks = len(seconds[0])
    if spent * (blocks + 1) / blocks > budget:
        return True
    rounds, half = divmod(blocks, 2)
    if half or rounds < FIRST_LOOK or rounds & (rounds - 1):
        return False
    found = [ratio(side, seconds[0]) for side in seconds[1:]]
    return all(interval[1] - interval[0] < target * value for value, interval in found)


def agree(outputs: Mapping[str, object], check: Callable[[object, object], bool] | float) -> None:
    """WrongAnswer unless every side's output passes `check` against the first's."""
    (base, expected), *rest = outputs.items()
    for name, output in rest:
        verdict = check(expected, output) if callable(check) else same(expected, output, check)
        if verdict is None:
            raise TypeError("the check returned None: it has to say True or False")
        if not verdict:
            raise WrongAnswer(f"{name} and {base} give different answers: a faster wrong answer is not timed")


def same(a: object, b: object, tolerance: float) -> bool:
    """Equal up to an absolute tolerance: tensors, arrays, numbers, and lists, tuples and dicts of them.

    NaN equals nothing. None is no answer: TypeError.
    """
    if a is None or b is None:
        raise TypeError("a side returned None: it has to return its answer, so that it can be checked")
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k], tolerance) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(
            same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor | np.ndarray | int | float):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        return a.shape == b.shape and bool(((a.double() - b.double().to(a.device)).abs() <= tolerance).all())
    return a == b


class Load:
    """Counts, from its making on, what share of this machine's processors other processes use."""

    def __init__(self, stat: Path = Path("/proc/stat")):
        self.stat, self.start = stat, self._now(stat)

    @staticmethod
    def _now(stat: Path) -> tuple[float, float, float] | None:
        """(now, processor seconds of everybody, of this process and its children); None off Linux."""
        if not stat.exists():
            return None
        user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, sum(os.times()[:4])

    def others(self) -> float | None:
        if self.start is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self.start, self._now(self.stat), strict=True))
        return round(max(0.0, busy - own) / max(wall * os.cpu_count(), 1e-9), 3)
