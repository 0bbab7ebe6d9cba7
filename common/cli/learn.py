"""Learning by writing: `start` writes stubs, `check` judges, `hint` helps, `solution` shows ours."""

import difflib
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.syntax import Syntax

from common import lesson, stubs
from common.cli import cards, paths, progress
from common.cli.cards import Card
from common.cli.checking import Check
from common.errors import UserError
from common.files import whole_file

__all__ = ["Check", "Hint", "Solution", "Start"]


@dataclass(frozen=True)
class Start:
    """Write the stubs of a project's technique files to my/."""

    project: tyro.conf.Positional[str]
    """The project: 8, 08, kv_cache or its folder."""
    again: bool = False
    """Start again: what you wrote is kept beside the new stub, under a number."""

    def __call__(self) -> int:
        card, say = of(self.project), Console(highlight=False, soft_wrap=True, markup=False).print
        exercises = lesson.exercises(card.folder)
        for path in dict.fromkeys(exercises.values()):
            target = paths.my() / card.name / path.name
            if target.exists() and not self.again:
                say(f"{target} is there already and stays as it is (--again keeps a copy and starts anew)")
                continue
            if target.exists():
                say(f"{target} kept as {backup(target).name}")
            with whole_file(target) as part:
                part.write_bytes(
                    stubs.stub(path.read_bytes(), f"for a hint, ./thirty hint {card.number} {{name}}")
                )
            say(f"{target} written")
        lesson_at = card.folder / "README.md"
        say(f"To write: {', '.join(exercises)}. The docstrings say what; the lesson is {lesson_at}.")
        say(f"Then: ./thirty check {card.number}, and if you are stuck ./thirty hint {card.number}")
        return 0


def backup(path):
    """Move a file out of the way, to `name.py.1` or the next number that is free."""
    number = next(n for n in range(1, 10_000) if not path.with_name(f"{path.name}.{n}").exists())
    return path.rename(path.with_name(f"{path.name}.{number}"))


@dataclass(frozen=True)
class Hint:
    """The next hint, least help first; which ones were shown is kept in my/progress.json."""

    project: tyro.conf.Positional[str]
    """The project: 8, 08, kv_cache or its folder."""
    exercise: tyro.conf.Positional[str] = ""
    """The exercise; left out: the first that has not passed yet."""

    def __call__(self) -> int:
        card, console = of(self.project), Console(highlight=False)
        name = choose(card, self.exercise)
        hints = lesson.hints(card.folder).get(name, [])
        if not hints:
            raise UserError(
                f"the lesson has no hint for {name}; its docstring in the stub says what it must do"
            )
        shown = progress.read().get(card.name, {}).get("hints", {})
        number = shown.get(name, 0) % len(hints)  # after the last one they start again
        console.print(f"{name}, hint {number + 1} of {len(hints)}: [bold]{escape(hints[number].title)}")
        console.print(Markdown(hints[number].text))
        progress.record(card, hints={**shown, name: number + 1})
        more = f"./thirty hint {card.number} {name}" if number + 1 < len(hints) else ""
        console.print(
            f"next: {more or f'that was the last one; ./thirty solution {card.number} {name} shows ours'}"
        )
        return 0


@dataclass(frozen=True)
class Solution:
    """The difference between your function and ours, after asking."""

    project: tyro.conf.Positional[str]
    """The project: 8, 08, kv_cache or its folder."""
    exercise: tyro.conf.Positional[str] = ""
    """The exercise; left out: the first that has not passed yet."""
    yes: bool = False
    """Do not ask first."""

    def __call__(self) -> int:
        card, console = of(self.project), Console(highlight=False)
        name = choose(card, self.exercise)
        path = lesson.exercises(card.folder)[name]
        if not self.yes and not agreed(f"Show our {name}? You learn more by writing it first. [y/N] "):
            console.print(f"not shown; ./thirty hint {card.number} {name} gives a hint")
            return 0
        mine = paths.my() / card.name / path.name
        ours, yours = (
            text_of(path.read_bytes(), name),
            text_of(mine.read_bytes() if mine.exists() else b"", name),
        )
        lines = difflib.unified_diff(yours, ours, str(mine), f"ours: {path.name}", n=100)
        text = "".join(line if line.endswith("\n") else line + "\n" for line in lines)
        if text:
            console.print(Syntax(text, "diff", background_color="default", word_wrap=True))
        else:
            console.print(f"your {name} is the same as ours")
        return 0


def agreed(question: str) -> bool:
    """Whether the learner answers yes; no answer is a no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def text_of(source: bytes, name: str) -> list[str]:
    """The lines of one function; none where the file lacks it or cannot be read."""
    try:
        found = {function.name: function for function in stubs.functions(source)}
    except (SyntaxError, ValueError):
        return []
    lines = source.decode("utf-8").splitlines(keepends=True)
    return lines[found[name].first - 1 : found[name].last] if name in found else []


def of(project: str) -> Card:
    """The project's card; UserError where it has no exercises, or inside a shadow tree."""
    if (paths.ROOT / ".shadow.json").exists():
        raise UserError("start, check, hint and solution work on your files as it is: leave out --mine")
    card = cards.find(project, paths.ROOT)
    if not lesson.exercises(card.folder):
        raise UserError(f"project {card.number} has no exercises yet; see `thirty list`")
    return card


def choose(card: Card, exercise: str) -> str:
    """The exercise asked for, or the first that has not passed; UserError for one that is not there."""
    names = list(lesson.exercises(card.folder))
    if exercise:
        if exercise not in names:
            raise cards.unknown(f"exercise of project {card.number}", exercise, names)
        return exercise
    passed = progress.read().get(card.name, {}).get("passed", {})
    return next((name for name in names if name not in passed), names[0])
