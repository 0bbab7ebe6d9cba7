"""Verb new: a project folder that keeps the rules of the house from its first minute.

The files of `template/` hold a small technique that works (the softmax), so that scripts, tests, proofs and
bench run at once; whoever adds a project replaces it piece by piece.
"""
import json
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from tyro.conf import Positional

from common.cli.cards import TIERS, cards
from common.cli.launch import start
from common.cli.paths import ROOT
from common.errors import UserError
from common.files import write_text

FILES = {
    "README.md": "README.md", "technique.py": "{name}.py", "generate.py": "generate.py",
    "explore.py": "explore.py", "bench.py": "bench.py", "test.py": "tests/test_{name}.py",
    "wrong.py": "tests/wrong_sum_over_columns.py",
}


@dataclass(frozen=True)
class New:
    number: Positional[int]
    """The next number that is free: 31."""
    name: Positional[str]
    """What the technique is called, as a module: my_technique."""
    phase: int = 10
    """The phase whose folder it goes into, 1 to 10."""

    def __call__(self) -> int:
        folder = create(ROOT, self.number, self.name, self.phase)
        print(f"written: {folder}\n\nCONTRIBUTING.md says how to go on. Try\n\n"
              f"  ./thirty test {self.number}\n  ./thirty run {self.number} smoke\n")
        return start("common.cli", ["report"])  # the map in the README


def create(root: Path, number: int, name: str, phase: int) -> Path:
    """Write the project's folder under `root` and its floor into the import contract, or UserError."""
    known = cards(root)
    free = known[-1].number + 1
    if number != free:
        raise UserError(f"the next project is {free}, not {number}")
    if not re.fullmatch(r"[a-z][a-z0-9_]{,22}[a-z0-9]", name):
        raise UserError(f"{name!r} cannot name it: take small letters, digits and underscores, at most 24")
    if name in {card.technique for card in known}:
        raise UserError(f"there is a project {name} already; take another name")
    phases = {card.week: card.phase for card in known}
    if phase not in phases:
        raise UserError(f"there is no phase {phase}: they are {min(phases)} to {max(phases)}")
    folder = root / phases[phase] / f"project{number}_{name}"
    write(folder, number, name, phase)
    add_floor(root / "pyproject.toml", f"{folder.parent.name}.{folder.name}")
    return folder


def write(folder: Path, number: int, name: str, phase: int) -> None:
    """The files of the template with the names filled in, the card, and a place for results."""
    title = name.replace("_", " ").capitalize()
    module = f"{folder.parent.name}.{folder.name}"
    for source, target in FILES.items():
        text = Path(__file__).parent.joinpath("template", f"{source}.txt").read_text(encoding="utf-8")
        text = Template(text).substitute(number=number, name=name, title=title, module=module)
        write_text(folder / target.format(name=name), text)
    insight = "One sentence: what a reader will know afterwards."
    card = {"number": number, "title": title, "week": phase, "tier": TIERS[1], "insight": insight,
            "builds_on": [], "extras": [], "claim": "What is measured, and when it is true.",
            "minutes": {"smoke": 0.1, "cpu": 1}, "seam": "none"}
    write_text(folder / "project.json", json.dumps(card, indent=2) + "\n")
    write_text(folder / "__init__.py", f'"""{insight}"""\n')
    write_text(folder / "results" / "expected.json", "{}\n")


def add_floor(pyproject: Path, module: str) -> None:
    """Put the project on top of the floors of the import contract, because all others came before it."""
    text = pyproject.read_text(encoding="utf-8")
    if text.count("\nlayers = [\n") != 1:
        raise UserError(f"{pyproject}: the import contract has no list of layers for {module}")
    write_text(pyproject, text.replace("\nlayers = [\n", f'\nlayers = [\n    "{module}",\n'))
