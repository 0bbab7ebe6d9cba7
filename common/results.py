"""Result files: what a bench measured and what it claims, as types that check themselves.

`results/<device>.json` holds one Result; a Result holds Claims; a Claim compares two Figures, or states one.
The verdict is worked out from the goal and the figure, never typed, and a file that says otherwise is
refused. No torch here, so that the tables of a README are rendered in a moment.
"""
import json
import math
import operator
import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path

from common.errors import UserError

OPS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}
NOT_RUN = "not run"  # begins the reason of a claim that has no verdict: a rival or a machine is not there


@dataclass(frozen=True)
class Figure:
    """One side of a claim: its value in the claim's unit, and how far to trust it.

    `cv` is the coefficient of variation of the runs; over 10 % the side is unsteady. `peak_memory` is in
    bytes. `counts` are what no machine can change: {"FLOPs": 4.0e9, "cache bytes/token": 1024}.
    """
    name: str
    value: float
    cv: float | None = None
    unsteady: bool = False
    peak_memory: int | None = None
    counts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A sentence that a number can refute.

    The *judged* figure is the ratio ours / baseline, or ours alone where there is no baseline. `goal`,
    `bound` (what the machine or the arithmetic allows at best), `prediction` (what the formula says) and
    `interval` (95 %) all speak of that one figure, so that the four can be read side by side. `better` says
    in which direction the unit improves. `samples` are what was measured: {side: [values in the unit]}.
    """
    id: str
    claim: str
    unit: str
    better: str
    goal: dict
    ours: Figure | None
    baseline: Figure | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    bound: float | None = None
    prediction: float | None = None
    verdict: str | None = None
    why: str = ""
    settings: dict = field(default_factory=dict)
    headline: bool = False

    def __post_init__(self):
        wrong = next(self._faults(), None)
        if wrong:
            raise ValueError(f"claim {self.id!r}: {wrong}")

    @property
    def judged(self) -> float | None:
        """The figure that goal, bound, prediction and interval speak of; None where it was not run."""
        if self.verdict is None:
            return None
        return self.ratio if self.baseline else self.ours.value

    def _faults(self) -> Iterator[str]:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.id):
            yield "its id may hold small letters, digits and dashes"
        if not self.claim or not self.unit:
            yield "it needs a sentence and a unit"
        if self.better not in ("higher", "lower"):
            yield f"better is 'higher' or 'lower', not {self.better!r}"
        if set(self.goal) != {"op", "value"} or self.goal["op"] not in OPS:
            yield f"its goal is {{'op': one of {' '.join(OPS)}, 'value': number}}, not {self.goal}"
        bad = [path for path, value in numbers(asdict(self)) if not math.isfinite(value)]
        if bad:
            yield f"{bad[0]} is not a finite number"
        yield from self._faults_of_verdict()

    def _faults_of_verdict(self) -> Iterator[str]:
        if self.verdict is None:
            if not self.why.startswith(NOT_RUN):
                yield f"a claim without a verdict says why, beginning with {NOT_RUN!r}"
            return
        if self.ours is None or (self.baseline is None) != (self.ratio is None):
            yield "a verdict needs our figure, and a baseline and a ratio go together"
            return
        if self.interval and not self.interval[0] <= self.judged <= self.interval[1]:
            yield f"its interval {self.interval} does not hold the figure {self.judged}"
        due = judge(self.judged, self.interval, self.goal)
        if self.verdict != due and not (self.verdict == "conditional" and due == "met" and self.why):
            yield f"its verdict is {self.verdict!r}, but the figures say {due!r}"


def judge(figure: float, interval: Sequence[float] | None, goal: Mapping) -> str:
    """"met" | "not met" | "conditional": the figure reaches the goal, but a part of its interval does not."""
    reaches = OPS[goal["op"]]
    if not reaches(figure, goal["value"]):
        return "not met"
    return "met" if all(reaches(end, goal["value"]) for end in interval or ()) else "conditional"


@dataclass(frozen=True)
class Result:
    """One `results/<device>.json`: where and when it was measured, beside what, and what came out."""
    device: str
    machine: dict
    versions: dict[str, str]
    commit: str
    date: str
    mode: str
    rivals: dict[str, str]
    claims: tuple[Claim, ...]

    def __post_init__(self):
        ids = [claim.id for claim in self.claims]
        heads = sum(claim.headline for claim in self.claims)
        if self.mode not in ("quick", "full"):
            raise ValueError(f"mode is 'quick' or 'full', not {self.mode!r}")
        if heads != 1:
            raise ValueError(f"exactly one claim is the headline, not {heads}")
        if len(set(ids)) < len(ids):
            raise ValueError(f"two claims share the id {max(ids, key=ids.count)!r}")

    @property
    def headline(self) -> Claim:
        return next(claim for claim in self.claims if claim.headline)


def from_dict(values: Mapping) -> Result:
    """The Result in a parsed file. ValueError or TypeError: a key too many or too few, or a false verdict."""
    def figure(value):
        return None if value is None else Figure(**value)

    def claim(value):
        missing = {f.name for f in fields(Claim)} - set(value)
        if missing:
            raise ValueError(f"claim {value.get('id')!r} has no {', '.join(sorted(missing))}")
        interval = None if value["interval"] is None else tuple(value["interval"])
        return Claim(**{**value, "baseline": figure(value["baseline"]), "ours": figure(value["ours"]),
                        "interval": interval})

    return Result(**{**values, "claims": tuple(claim(given) for given in values["claims"])})


def read(path: Path) -> Result:
    """The Result in a file of `results/`, checked; UserError says what is wrong with a file that is none."""
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: no result file ({error}); measure again: ./thirty bench N --full") from None


def dumps(value) -> str:
    """JSON as it is committed: indented, but a list of plain numbers on one line; ValueError for NaN."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[[-+\d.eE,\s]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def numbers(tree, path: str = "") -> Iterator[tuple[str, float]]:
    """Every (path, number) in nested dicts, lists and tuples; truth values are not numbers."""
    if isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from numbers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield path, tree


# --- where a figure comes from ------------------------------------------------------------------------------

def slug(kind: str, gpu: str = "") -> str:
    """The device's name in file names: cpu, mps, h100, h200, rtx4090. `gpu` is what the driver calls it."""
    if kind != "cuda":
        return kind
    words = [w for w in re.split(r"[^a-z0-9]+", gpu.lower()) if w not in ("nvidia", "geforce", "tesla", "")]
    return "".join(words[:2 if words[:1] in (["rtx"], ["gtx"]) else 1]) or "cuda"


def commit(folder: Path) -> str:
    """The commit of a checkout, "+changes" where tracked files differ; "unknown" for any other folder."""
    def git(*args):
        done = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if git("rev-parse", "--show-cdup") or not (head := git("rev-parse", "HEAD")):
            return "unknown"
        return head[:12] + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except FileNotFoundError:  # git is not installed
        return "unknown"


def today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


# --- expected.json ------------------------------------------------------------------------------------------

def band(values: Sequence[float]) -> dict[str, float]:
    """{mean, sd, low, high} of one metric over at least three seeds.

    The band is mean ± max(4 sd, 1 % of |mean|). Four, because the sd of three seeds is itself uncertain by
    half; one per cent, because another processor sums in another order and three seeds may agree by chance.
    """
    if len(values) < 3:
        raise UserError(f"a band needs at least three seeds, not {len(values)}: --seeds 0 1 2")
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    half = max(4 * sd, 0.01 * abs(mean))
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


SPEEDS = {"tokens_per_s", "mfu", "seconds", "peak_memory_bytes"}  # what a machine decides, and no seed


def bands(runs: Mapping[int, Mapping[str, float]], **origin) -> dict[str, dict]:
    """{metric: {mean, sd, low, high, seeds, **origin}} from {seed: metrics}; SPEEDS, and what is no number,
    have no band.

    origin: machine, commit, corpus. UserError where the runs report different metrics, or none.
    """
    names = [{name for name, _ in numbers(metrics)} - SPEEDS for metrics in runs.values()]
    if not names or not names[0] or any(other != names[0] for other in names):
        found = "; ".join(f"seed {seed}: {sorted(found)}" for seed, found in zip(runs, names, strict=True))
        raise UserError(f"the runs report different metrics, or none: {found}")
    return {name: {**band([runs[seed][name] for seed in runs]), "seeds": list(runs), **origin}
            for name in sorted(names[0])}
