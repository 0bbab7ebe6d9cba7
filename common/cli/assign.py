"""`thirty assign 10-13 --out FOLDER`: stubs, lessons and tests for students, without solutions.

The folder is no copy of the course: it works beside a clone.
"""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from tyro.conf import Positional

from common import lesson, stubs
from common.cli import cards, paths
from common.cli.cards import Card
from common.cli.submissions import Assignment, moment
from common.errors import UserError, demand
from common.files import write_json, write_text

SHORT = 60  # a body of fewer letters is a formula that a lesson may well say

README = """# {title}

{due}This folder is for you to work in. It holds

- `my/`: the files to complete, one folder a project. Each function marked `@exercise` has lost its body; its
  docstring says what it must do. What else stands in a file was handed out: it is put back before grading.
  Functions of your own, and further files under names of your own, are welcome.
- `{phase}/…`: each project's lesson (`README.md`), with hints folded away, and the tests that judge you.
- `assignment.json`: the projects, their weights, the due date.

It is not the course itself. Have a clone of the course beside it; there, with the path that this folder has
on your machine:

{commands}

`check` runs the tests on your files and says in plain words what is wrong; `hint` helps, least help first. On
Windows set `THIRTY_MY` with `set` first, and say `python -m common.cli` in place of `./thirty`.

| project | exercises | files |
| --- | --- | --- |
{rows}

Hand in `my/`, as a folder or as a zip. The same tests grade it, each project by the part of its exercises'
tests that pass. Your code runs without a network and may write to temporary folders only.
"""


@dataclass(frozen=True)
class Assign:
    """Write a folder to hand out: stubs, lessons and public tests of some projects, without solutions."""

    what: Positional[str]
    """The projects: 10-13, or 8,10-12, or phase4."""
    out: Path
    """The folder to write, which must not be there yet."""
    due: str = ""
    """When it is due, like 2026-11-30T23:59+01:00."""
    late_per_day: float = 0.1
    """The part of the score that each day begun after that takes."""
    late_days: int = 5
    """After so many days nothing is left."""

    def __call__(self) -> int:
        chosen = projects(self.what)
        demand(
            0 <= self.late_per_day <= 1 and self.late_days >= 0,
            "--late-per-day is from 0 to 1, --late-days from 0",
        )
        if self.due:
            moment(self.due, "--due")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise UserError(f"--out {self.out} is there already: name another folder, or remove it")
        terms = Assignment(
            tuple(numbers(chosen)), {str(n): 1.0 for n in numbers(chosen)}, self.due or None,
            late_per_day=self.late_per_day, late_days=self.late_days,
        )  # fmt: skip
        for card in chosen:
            hand_out(card, self.out)
        write_json(self.out / "assignment.json", asdict(terms))
        write_text(self.out / "README.md", letter(chosen, self.due))
        if found := leaks(self.out, chosen):
            shutil.rmtree(self.out)
            raise UserError(f"{found[0]}; nothing was written. That is a defect of the course")
        exercises = sum(len(lesson.exercises(card.folder)) for card in chosen)
        print(f"{self.out} written: {exercises} exercises of {len(chosen)} projects, no solution.\n"
              "Submissions: one folder or zip a student, beside a copy of assignment.json; then\n"
              "./thirty grade FOLDER")  # fmt: skip
        return 0


def projects(text: str) -> list[Card]:
    """The projects that `10-13`, `8,10-12`, `phase4` or a name means; UserError where one has no exercise."""
    found: dict[int, Card] = {}
    for part in text.replace(" ", "").split(","):
        ends = re.fullmatch(r"(\d{1,4})-(\d{1,4})", part)
        if ends:
            first, last = int(ends[1]), int(ends[2])
            demand(first <= last, f"{part}: the first project comes first, as in 10-13")
            here = [cards.find(str(number), paths.ROOT) for number in range(first, last + 1)]
        elif part.startswith("phase") and "project" not in part:
            here = cards.phase(part, paths.ROOT)
        else:
            here = [cards.find(part, paths.ROOT)]
        found |= {card.number: card for card in here}
    for card in found.values():
        ready = (card.folder / "README.md").is_file() and lesson.exercises(card.folder)
        demand(ready, f"project {card.number} has no exercises: leave it out")
    return [found[number] for number in sorted(found)]


def numbers(chosen: list[Card]) -> list[int]:
    return [card.number for card in chosen]


def hand_out(card: Card, out: Path) -> None:
    """One project: its stubs to `my/`, its lesson with the pictures, and its tests, to its own place."""
    for path in dict.fromkeys(lesson.exercises(card.folder).values()):
        text = stubs.stub(path.read_bytes(), f"for a hint, ./thirty hint {card.number} {{name}}")
        target = out / "my" / card.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)
    readme = card.folder / "README.md"
    pictures = re.findall(r"\]\((results/[^)#]+)\)", readme.read_text(encoding="utf-8"))
    tests = [path for path in (card.folder / "tests").glob("*.py") if not path.name.startswith("wrong_")]
    drawn = [card.folder / name for name in pictures if (card.folder / name).is_file()]
    for path in [readme, *drawn, *tests]:
        target = out / card.phase / card.name / path.relative_to(card.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def letter(chosen: list[Card], due: str) -> str:
    """The README of the folder."""
    first = chosen[0]
    commands = [
        f"    THIRTY_MY=/path/to/this/folder/my ./thirty {verb} {first.number}" for verb in ("check", "hint")
    ]
    rows = [
        f"| {card.number} {card.title} | {len(lesson.exercises(card.folder))} | "
        + ", ".join(f"`{p.name}`" for p in dict.fromkeys(lesson.exercises(card.folder).values())) + " |"
        for card in chosen
    ]  # fmt: skip
    title = "Assignment: project " + ", ".join(f"{card.number} ({card.title})" for card in chosen)
    phase = first.phase if len({card.phase for card in chosen}) == 1 else "phase…"
    return README.format(title=title, due=f"Due {due}. " if due else "", commands="\n".join(commands),
                         phase=phase, rows="\n".join(rows))  # fmt: skip


def leaks(out: Path, chosen: list[Card]) -> list[str]:
    """Where a file of the folder holds the body of an exercise: its text, whatever its layout."""
    texts = {
        path: squeezed(path.read_bytes())
        for path in sorted(out.rglob("*"))
        if path.suffix in (".py", ".md", ".json")
    }
    found = []
    for card in chosen:
        bodies: dict[str, bytes] = {}
        for path in dict.fromkeys(lesson.exercises(card.folder).values()):
            bodies |= solutions(path.read_bytes())
        for name, text in bodies.items():
            found += [f"{at.relative_to(out)} holds the solution of {name}"
                      for at, held in texts.items() if len(text) > SHORT and text in held]  # fmt: skip
    return found


def solutions(source: bytes) -> dict[str, bytes]:
    """The exercises of a file, each as its text behind signature and docstring, squeezed."""
    lines, found = source.splitlines(keepends=True), {}
    for name, function in stubs.marked(source).items():
        line, column = function.kept
        first, *more = lines[line - 1 : function.last]
        found[name] = squeezed(b"".join([first[column:], *more]))
    return found


def squeezed(text: bytes) -> bytes:
    """Text without blanks, line ends and comments, to compare."""
    lines = (line.partition(b"  #")[0] for line in text.splitlines())
    return b"".join(b"".join(lines).split())
