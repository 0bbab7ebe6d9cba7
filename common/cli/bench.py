"""The frame of every project's bench.py: `if __name__ == "__main__": bench(main, profiled)`.

    def main(b: Bench) -> None:
        n = b.pick(smoke=8, quick=64, full=512)
        run = b.compare({"no cache": lambda: plain(n), "cache": lambda: cached(n)}, check=1e-5)
        b.claim("speed", "The cache makes generation at least 5 times as fast", headline=True, unit="tok/s",
                better="higher", goal=(">=", 5), measured=run.figures("cache", work=n), prediction=formula(n))

    def profiled(b: Bench) -> Callable:      # what `profile N` looks into
        return lambda: cached(64)

`bench N` runs it quick (at most 2 minutes), `bench N --full` at most 25 and writes the results that are
committed, `smoke` in seconds and writes nothing. All three run the same code.
"""
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import tyro

from common.cli import tables
from common.cli.parse import parse
from common.cli.paths import ROOT, runs
from common.cli.script import stop, versions
from common.errors import UserError
from common.files import write_text
from common.results import NOT_RUN, Claim, Figure, Result, commit, dumps, judge, slug, today

LIMITS = {"smoke": 20, "quick": 120, "full": 1500}    # seconds for the whole bench
BUDGETS = {"smoke": 0.5, "quick": 15, "full": 120}    # seconds for one comparison, unless the bench says else
TARGETS = {"smoke": 1.0, "quick": 0.10, "full": 0.04}    # width of the interval at which a comparison ends


@dataclass(frozen=True)
class Options:
    mode: tyro.conf.Positional[Literal["smoke", "quick", "full"]] = "quick"
    """How long to measure: seconds, 2 minutes, or 25 minutes with the results that are committed."""
    full: bool = False
    """The same as mode full."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes the best that works."""
    out: Path | None = None
    """Folder for the results; without it the project's results/ (full), the runs (quick), none (smoke)."""
    profile: bool = False
    """Not the bench but a profile: the ten largest operations, and memory over time."""


@dataclass
class Bench:
    """One run of a bench: what to measure on, and the claims made so far."""
    project: Path
    mode: str
    device: Any
    out: Path | None = None
    rivals_in: Path | None = None
    claims: list[Claim] = field(default_factory=list)
    rivals: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def pick(self, *, smoke: Any, quick: Any, full: Any) -> Any:
        """The size for this mode. It changes how much is measured, never what."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.mode]

    def say(self, text: str) -> None:
        print(text, flush=True)

    @cached_property
    def ceilings(self):
        """FLOP/s and bytes/s of this machine, measured when first asked for and kept for this run only."""
        from common.profiling import ceilings
        return ceilings(self.device, seconds=self.pick(smoke=0.02, quick=0.5, full=2.0))

    def compare(self, sides: dict[str, Callable], **options):
        """`common.benchmark.compare` with this mode's budget and target, on this bench's device."""
        from common.benchmark import compare
        self.say(f"measuring {', '.join(sides)} …")
        return compare(sides, **{"device": self.device, "budget": BUDGETS[self.mode],
                                 "target": TARGETS[self.mode], **options})

    def sweep(self, over: str, sizes: Iterable[float], compare: Callable[[Any], Any], ours: str) -> dict:
        """{"over", "rows": [{"at", "ratio", "interval"}], "break_even"}, for a claim's settings={"sweep": …}.

        compare(size) gives a Comparison; the ratio is how many times faster `ours` is.
        """
        rows = []
        for size in sizes:
            value, interval = compare(size).speedup(ours)
            rows.append({"at": size, "ratio": value, "interval": interval})
        return {"over": over, "rows": rows, "break_even": break_even([(r["at"], r["ratio"]) for r in rows])}

    def claim(self, id: str, sentence: str, *, unit: str, better: str, goal: tuple[str, float],
              measured: dict, bound: float | None = None, prediction: float | None = None, only: str = "",
              why: str = "", settings: dict | None = None, headline: bool = False) -> Claim:
        """Record a claim; the verdict is worked out here.

        measured: `Comparison.figures(…)` or `common.benchmark.values(…)`. goal, bound and prediction speak of
        the ratio, or of our figure where there is no baseline. only: the condition under which it holds
        ("from 700 tokens on"); then it is conditional.
        """
        measured = dict(measured)
        settings = {**(settings or {}), **measured.pop("settings", {})}
        aim = {"op": goal[0], "value": goal[1]}
        figure = measured["ratio"] if measured.get("baseline") else measured["ours"].value
        verdict = judge(figure, measured.get("interval"), aim)
        if verdict == "conditional":
            why = f"part of the interval misses the goal. {why}".strip()
        elif verdict == "met" and only:
            verdict, why = "conditional", f"only {only}. {why}".strip()
        return self._add(id=id, claim=sentence, unit=unit, better=better, goal=aim, bound=bound, why=why,
                         prediction=prediction, verdict=verdict, settings=settings, headline=headline,
                         **measured)

    def not_run(self, id: str, sentence: str, *, unit: str, better: str, goal: tuple[str, float], why: str,
                ours: Figure | None = None, headline: bool = False) -> Claim:
        """Record a claim that could not be measured here; why: "nanoGPT is not in $THIRTY_RIVALS"."""
        return self._add(id=id, claim=sentence, unit=unit, better=better, ours=ours, headline=headline,
                         goal={"op": goal[0], "value": goal[1]}, why=f"{NOT_RUN}: {why}")

    def _add(self, **values) -> Claim:
        self.claims.append(Claim(**values))
        return self.claims[-1]

    def rival(self, name: str) -> Path | None:
        """The checkout of another project in $THIRTY_RIVALS, its commit recorded; None: it is not there."""
        folder = self.rivals_in / name if self.rivals_in else None
        there = folder is not None and folder.is_dir()
        self.rivals[name] = commit(folder) if there else NOT_RUN
        return folder if there else None

    def library(self, name: str) -> bool:
        """Is this package installed? Its version is recorded."""
        try:
            self.rivals[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            self.rivals[name] = NOT_RUN
        return self.rivals[name] != NOT_RUN

    def result(self) -> Result:
        """Everything so far, as the file will hold it."""
        return Result(mode="full" if self.mode == "full" else "quick", rivals=self.rivals,
                      claims=tuple(self.claims), **origin(self.device))


def bench(main: Callable[[Bench], None], profiled: Callable[[Bench], Callable] | None = None,
          argv: list[str] | None = None) -> None:
    """Read the command line, measure, print, write the results; exit code 2 for a user's mistake."""
    try:
        options = options_of(main, sys.argv[1:] if argv is None else argv)
        from common.device import pick
        project, rivals = Path(main.__code__.co_filename).resolve().parent, os.environ.get("THIRTY_RIVALS")
        b = Bench(project, "full" if options.full else options.mode, pick(options.device), options.out,
                  Path(rivals).expanduser() if rivals else None)
        if options.profile:
            return profile_of(b, profiled)
        main(b)
        finish(b)
    except UserError as error:
        stop(f"error: {error}", 2)
    except KeyboardInterrupt:
        stop("stopped by Ctrl-C: nothing was written", 130)


def options_of(main: Callable, argv: list[str]) -> Options:
    about = sys.modules[main.__module__].__doc__ or "Measure the project's claims."
    return parse(Options, list(argv), prog="thirty bench N", description=about.strip().split("\n")[0])


def origin(device: Any) -> dict:
    """device, machine, versions, commit and date of a result."""
    from common.device import machine
    facts = machine(os.environ)
    return {"device": slug(device.type, facts["gpu"] or ""), "machine": facts, "versions": versions(),
            "commit": commit(ROOT), "date": today()}


def finish(b: Bench) -> None:
    """Print the table, write the result where its mode belongs, and say so."""
    result = b.result()
    show(result)
    spent = time.perf_counter() - b.started
    if spent > LIMITS[b.mode]:
        b.say(f"This took {spent:.0f} s; a {b.mode} bench may take {LIMITS[b.mode]} s.")
    folder = b.out or folder_of(b)
    if folder is None:
        return b.say("smoke: nothing was written")
    write_text(folder / f"{result.device}.json", dumps(asdict(result)))
    b.say(f"written: {folder / result.device}.json")
    if folder == b.project / "results":
        b.say("./thirty report writes it into the READMEs")


def folder_of(b: Bench) -> Path | None:
    """Only a full bench is committed, not a quick one; a smoke test leaves nothing."""
    if b.mode == "full":
        return committed(b)
    return None if b.mode == "smoke" else runs() / b.project.name / "bench"


def committed(b: Bench) -> Path:
    """The project's results/; in a shadow tree (--mine) the runs: a learner's figures are not the house's."""
    return runs() / b.project.name / "mine" if (ROOT / ".shadow.json").exists() else b.project / "results"


def profile_of(b: Bench, profiled: Callable[[Bench], Callable] | None) -> None:
    """Write results/profile_<device>.json and, under runs(), the Chrome trace; print the operations."""
    if profiled is None:
        raise UserError(f"{b.project.name} has nothing to profile: its bench.py defines no profiled(b)")
    from common.profiling import profile
    where = origin(b.device)
    trace = runs() / b.project.name / "profile" / f"{where['device']}.trace.json"
    found = profile(profiled(b), b.device, trace=trace)
    target = (b.out or committed(b)) / f"profile_{where['device']}.json"
    write_text(target, dumps({**where, **found}))
    for row in found["operations"]:
        b.say(f"{row['share']:6.1%}  {row['ms']:10.2f} ms  {row['calls']:7} calls  {row['name']}")
    b.say(f"written: {target}\ntrace for https://ui.perfetto.dev: {trace}")


def break_even(points: list[tuple[float, float]]) -> float | None:
    """Where the ratio first crosses 1, between two sizes in a straight line over log size; None: nowhere."""
    for (a, low), (z, high) in pairwise(points):
        if (low < 1) != (high < 1):
            share = (1 - low) / (high - low)
            return math.exp(math.log(a) + share * (math.log(z) - math.log(a)))
    return None


def show(result: Result) -> None:
    """The claims as a table on the screen, and under it what each says, why it came out so, the counts."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    colours = {"met": "bold green", "not met": "bold red", "conditional": "bold yellow"}
    console, table = Console(highlight=False), Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in tables.cells(result.headline):
        table.add_column(name, overflow="fold")
    for claim in result.claims:
        *row, verdict = {**tables.cells(claim), "claim": claim.id}.values()
        table.add_row(*map(Text, row), Text(verdict, colours.get(claim.verdict, "dim")),
                      style="bold" if claim.headline else "")
    console.print(f"\n{result.device}: {tables.machine(result.machine)}", style="bold")
    console.print(table)
    for claim in result.claims:
        console.print(Text.assemble((claim.id, "bold"), f": {claim.claim}"))
        lines = tables.notes(claim) + [f"{name}: {'  '.join(row)}" for name, row in tables.sweep(claim)]
        console.print(Text("\n".join(f"  {line}" for line in lines), style="dim"))
    beside = [f"{name} {version}" for name, version in result.rivals.items()]
    console.print("\n" + ", ".join([result.mode, f"commit {result.commit}", result.date, *beside]))
