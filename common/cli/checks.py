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

LONGEST = 600.0  # seconds for one smoke test; it should take a few


@dataclass(frozen=True)
class Test:
    what: Positional[str] = "all"
    """A project (8, kv_cache), a phase (phase3), common, data, tests, or all."""
    slow: bool = False
    """Also what takes minutes, and what needs a GPU where there is one."""

    def __call__(self) -> int:
        folders = places(self.what)
        need(["dev"], "the tests")
        if find_spec("pytest") is None:
            raise UserError(f"the tests need pytest, which is not here: {command('dev')}")
        # Another -m replaces the one in pyproject.toml; an empty one selects everything.
        selection = ["-m", ""] if self.slow else []
        return start("pytest", ["-c", str(ROOT / "pyproject.toml"), *selection, *map(str, folders)], cwd=ROOT)


def places(what: str) -> list[Path]:
    """The folders whose tests `what` means; none for all, which pyproject.toml lists."""
    if what == "all":
        return []
    if what in ("common", "data", "tests"):
        return [ROOT / what]
    chosen = phase(what) if what.startswith("phase") and "project" not in what else [find(what)]
    folders = [card.folder for card in chosen if any(card.folder.glob("tests/test_*.py"))]
    if not folders:
        raise UserError(f"{what} has no tests, because it is not built yet; see `thirty list`")
    return folders


@dataclass(frozen=True)
class Smoke:
    what: Positional[str] = "all"
    """A project (8, kv_cache), a phase (phase3), or all."""
    device: str = "auto"
    """auto, cpu, cuda or mps: where the scripts compute."""

    def __call__(self) -> int:
        results = [smoke(card, script, self.device) for card in chosen(self.what) for script in card.scripts]
        show(results)
        return 1 if any(code for *_, code, _ in results) else 0


def chosen(what: str) -> list[Card]:
    """The built projects that `what` means."""
    if what == "all":
        found = cards()
    else:
        found = phase(what) if what.startswith("phase") else [find(what)]
    built = [card for card in found if card.scripts]
    if not built:
        raise UserError(f"{what} is not built yet; see `thirty list`")
    return built


def smoke(card: Card, script: str, device: str) -> tuple[str, str, float, int, str]:
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
