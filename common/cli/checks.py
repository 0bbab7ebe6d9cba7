"""Verbs test and smoke: is everything right, on this machine?"""
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tyro.conf import Positional

from common.cli.cards import Card, cards, find, phase
from common.cli.extras import command, need
from common.cli.launch import start
from common.cli.paths import ROOT
from common.errors import UserError

NO_TESTS = 5  # pytest's exit code where nothing was selected
LONGEST = 600.0  # seconds for one smoke test; it should take a few


@dataclass(frozen=True)
class Test:
    what: Positional[str] = "all"
    """A project (8, kv_cache), a phase (phase3), common, data, tests, or all."""
    slow: bool = False
    """Also what takes minutes, and what needs a GPU where there is one."""
    gpu: bool = False
    """Only what needs a GPU."""

    def __call__(self) -> int:
        folders = places(self.what)
        if folders == []:
            print(f"{self.what} is not built yet: nothing to test")
            return 0
        need(["dev", *oracles(self.what)], "the tests")
        if find_spec("pytest") is None:
            raise UserError(f"the tests need pytest, which is not here: {command('dev')}")
        # Another -m replaces the one in pyproject.toml; an empty one selects everything.
        selection = ["-m", "gpu"] if self.gpu else ["-m", ""] if self.slow else []
        # A worker for each processor, and a file's tests on one of them: they share what takes long to make.
        workers = [] if folders else ["-n", "auto", "--maxprocesses", "8", "--dist", "loadfile"]
        args = ["-c", str(ROOT / "pyproject.toml"), *selection, *workers, *map(str, folders or [])]
        code = start("pytest", args, cwd=ROOT)
        return 0 if self.gpu and code == NO_TESTS else code


def places(what: str) -> list[Path] | None:
    """The folders whose tests `what` means; None for all of them, as pyproject.toml lists them."""
    if what == "all":
        return None
    if what in ("common", "data", "tests"):
        return [ROOT / what]
    return [card.folder for card in chosen(what) if any(card.folder.glob("tests/test_*.py"))]


def oracles(what: str) -> list[str]:
    """The extras of the projects that are tested, which they are compared with: without them tests skip."""
    if what in ("common", "data", "tests"):
        return []
    return sorted({extra for card in chosen(what) if card.built for extra in card.extras})


@dataclass(frozen=True)
class Smoke:
    what: Positional[str] = "all"
    """A project (8, kv_cache), a phase (phase3), or all."""
    device: str = "auto"
    """auto, cpu, cuda or mps: where the scripts compute."""

    def __call__(self) -> int:
        cards = chosen(self.what)
        if not any(card.scripts for card in cards):
            print(f"{self.what} is not built yet: nothing to run")
            return 0
        results = [try_out(card, script, self.device) for card in cards for script in card.scripts]
        show(results)
        return 1 if any(code for *_, code, _ in results) else 0


def chosen(what: str) -> list[Card]:
    """The projects that `what` means: all, a phase, or one."""
    if what == "all":
        return cards()
    return phase(what) if what.startswith("phase") and "project" not in what else [find(what)]


def try_out(card: Card, script: str, device: str) -> tuple[str, str, float, int, str]:
    """(project, script, seconds, exit code, last lines) of one smoke preset, run in a folder then removed."""
    print(f"{card.name} {script} …", flush=True)
    with tempfile.TemporaryDirectory(prefix="thirty-") as folder, open(Path(folder, "log"), "w+b") as log:
        began = time.perf_counter()
        args = ["smoke", "--device", device, "--out", str(Path(folder, "run"))]
        code = start(f"{card.module}.{script}", args, output=log, timeout=LONGEST)
        seconds = time.perf_counter() - began
        log.seek(0)
        said = log.read().decode("utf-8", "replace").strip().splitlines()
    if code == 130:
        raise KeyboardInterrupt
    return card.name, script, seconds, code, "\n".join(said[-15:] if code else said[-1:])


def show(results) -> None:
    """The table, and what each failure said last."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    table = Table("project", "script", "seconds", "", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, script, seconds, code, _ in results:
        table.add_row(name, script, f"{seconds:.1f}", "pass" if code == 0 else f"FAIL ({code})")
    Console().print(table)
    for name, script, _, code, said in results:
        if code:
            print(f"--- {name} {script} ended with exit code {code}" +
                  (f" (over {LONGEST:.0f} s)" if code == 124 else "") + f"\n{said}\n")
