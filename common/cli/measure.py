"""Verbs bench, profile, explore and expect: each starts a project's own script in a process of its own."""
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.cli.cards import Card, find
from common.cli.launch import start
from common.cli.paths import ROOT
from common.cli.projects import need
from common.errors import UserError
from common.files import write_text
from common.results import bands, commit, dumps

USAGE = {
    "bench": "usage: thirty bench N [quick|full|smoke] [--full] [--device auto|cpu|cuda|mps]",
    "profile": "usage: thirty profile N [--device auto|cpu|cuda|mps]",
    "explore": "usage: thirty explore N [preset] [--field value ...]",
}


def bench(argv: list[str]) -> int:
    """`bench N [--full]`: measure the project's claims; full writes what is committed."""
    return script("bench", argv)


def profile(argv: list[str]) -> int:
    """`profile N`: where the project spends its time."""
    return script("profile", argv, "bench", "--profile")


def explore(argv: list[str]) -> int:
    """`explore N [preset]`: the project's pictures and experiments."""
    return script("explore", argv)


def script(verb: str, argv: list[str], name: str | None = None, *flags: str) -> int:
    """Start `name`.py (else the verb's own) of the project that argv begins with; the rest goes to it."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE[verb])
        return 0 if argv else 2
    card = find(argv[0])
    return start(module(card, name or verb), [*argv[1:], *flags])


def module(card: Card, name: str) -> str:
    """The import name of a project's script, its extras at hand; UserError where it has none."""
    if not (card.folder / f"{name}.py").is_file():
        raise UserError(f"project {card.number}, {card.title}, has no {name}.py: it is not built yet")
    need(card)
    return f"{card.module}.{name}"


@dataclass(frozen=True)
class Expect:
    project: tyro.conf.Positional[str]
    """Number, name or folder of the project."""
    preset: tyro.conf.Positional[str]
    """The preset to run once a seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds to run now; at least three with those of --runs."""
    script: Annotated[str, tyro.conf.arg(metavar="NAME")] = "train"
    """The script whose metrics get a band."""
    runs: tuple[Path, ...] = ()
    """Folders of finished runs of this preset whose seeds count too."""

    def __call__(self) -> int:
        """Write the project's results/expected.json, this preset's bands anew, the others as they are."""
        card = find(self.project)
        target, name = card.folder / "results" / "expected.json", module(card, self.script)
        found = dict(finished(folder, card, self) for folder in self.runs)
        if len({*found, *self.seeds}) < 3:
            raise UserError(f"a band needs three different seeds, not {[*found, *self.seeds]}: --seeds 0 1 2")
        with tempfile.TemporaryDirectory() as folder:
            found |= {seed: run(name, self.preset, seed, Path(folder) / str(seed))
                      for seed in self.seeds if seed not in found}
        last = list(found.values())[-1]
        origin = {"machine": last["machine"]["cpu"], "commit": commit(ROOT)}
        if last["device"] != "cpu":
            origin["machine"] = last["machine"]["gpu"] or last["device"]
        if last.get("corpus"):
            origin["corpus"] = last["corpus"]
        known = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
        known[self.preset] = bands({seed: one["metrics"] for seed, one in found.items()}, **origin)
        write_text(target, dumps(known))
        for metric, band in known[self.preset].items():
            print("{}: {mean:.6g}, sd {sd:.2g}, band {low:.6g} to {high:.6g}".format(metric, **band))
        print(f"written: {target}")
        return 0


def run(name: str, preset: str, seed: int, folder: Path) -> dict:
    """One run's result.json; UserError where the script fails."""
    code = start(name, [preset, "--seed", str(seed), "--out", str(folder)])
    if code:
        raise UserError(f"{name} {preset} --seed {seed} ended with exit code {code}: no band was written")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def finished(folder: Path, card: Card, asked: Expect) -> tuple[int, dict]:
    """(seed, result) of a run that lies in `folder`; UserError where it is another preset or was changed."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{folder} has no result.json: that run has not come to its end") from None
    ours = (card.folder.name, asked.script, asked.preset)
    if (theirs := tuple(result[key] for key in ("project", "script", "preset"))) != ours:
        raise UserError(f"{folder} is a run of {' '.join(theirs)}, not of {' '.join(ours)}")
    if changed := set(result["overridden"]) - {"seed", "save"}:  # where a model goes changes no figure
        raise UserError(f"{folder} was run with another {', '.join(sorted(changed))} than the preset's")
    return result["config"]["seed"], result
