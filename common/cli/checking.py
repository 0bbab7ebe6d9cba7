"""`thirty check N`: the project's own tests on the learner's files, and whose file each process ran."""

from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path

import tyro
from rich.console import Console
from rich.markup import escape

from common import lesson, shadow
from common.cli import paths, progress
from common.cli.cards import Card
from common.judge import Judge, Result
from common.lesson import Test
from common.shadow import Mine, Note

WORDS = {"passed": "[green]pass[/]", "failed": "[red]FAIL[/]", "skipped": "[yellow]skip[/]"}


@dataclass(frozen=True)
class Check:
    """Judge what you wrote in my/ with the project's own tests."""

    project: tyro.conf.Positional[str]
    """The project: 8, 08, kv_cache or its folder."""
    exercise: tyro.conf.Positional[str] = ""
    """Only this exercise; left out: all of them, and the project as a whole."""
    verbose: bool = False
    """Show the whole traceback of each failure."""
    seconds: float = 30.0
    """Time for one test, in seconds; one that takes longer fails."""

    def __call__(self) -> int:
        from common.cli.learn import choose, of

        card = of(self.project)
        wanted = [choose(card, self.exercise)] if self.exercise else list(lesson.exercises(card.folder))
        work = Work(card, wanted, shadow.mine(paths.my(), card.folder), whole=not self.exercise)
        return Checker(work, Console(highlight=False, soft_wrap=True), self.verbose).run(self.seconds)


@dataclass(frozen=True)
class Work:
    """What to check: the exercises asked for, the learner's files, and, if `whole`, the unmarked tests."""

    card: Card
    wanted: list[str]
    mine: list[Mine]
    whole: bool

    @cached_property
    def laid(self) -> dict[str, Mine]:
        """The files to lay over ours, by place: all but those in which nothing is written yet."""
        return {file.place: file for file in self.mine if file.begun}

    @cached_property
    def done(self) -> set[str]:
        """The exercises of the learner's files that are no stubs any more."""
        return {name for file in self.mine for name in file.exercises if name not in file.left}

    @cached_property
    def left(self) -> list[str]:
        """The exercises asked for that are still to write."""
        return [name for name in self.wanted if name not in self.done]

    @cached_property
    def tests(self) -> list[Test]:
        """The tests that can run: those of written exercises in their order, then those of the whole."""
        tests = lesson.tests(self.card.folder)
        ready = [test for test in tests if test.judges and set(test.judges) <= self.done]
        found = [test for name in self.wanted for test in ready if name in test.judges]
        found += [test for test in tests if not test.judges and self.whole and not self.left]
        return list(dict.fromkeys(found))


class Checker:
    """Runs a check and tells it in plain words."""

    def __init__(self, work: Work, console: Console, verbose: bool = False):
        self.work, self.say, self.verbose = work, console.print, verbose
        self.results: list[Result] = []
        self.heading = ""

    def run(self, seconds: float) -> int:
        """0 if everything asked for is written and passes on the learner's files, else 1."""
        foreign = []
        if self.work.tests:
            files = ", ".join(file.path.name for file in self.work.laid.values())
            self.say(f"{len(self.work.tests)} tests on your {files}")
            with shadow.tree(paths.ROOT, self.work.laid.values()) as target:
                Judge(target, self.work.tests, seconds=seconds, say=self.hear).run()
                foreign = self.whose(shadow.notes(target))
        passed = [name for name in self.work.wanted if not foreign and passes(self.results, name)]
        self.remember(passed)
        failed = [result for result in self.results if result.outcome == "failed"]
        good = len(passed) == len(self.work.wanted) and not failed
        self.say_left()
        self.say_verdict(passed, good)
        return 0 if good else 1

    def hear(self, result: Result) -> None:
        """Take in one result and tell it: a line, and what went wrong in two or three more."""
        if result.outcome == "skipped" and (result.where or "").rpartition(":")[0] in self.work.laid:
            result = replace(result, outcome="failed", message="your code skips this test")
        self.results.append(result)
        heading = next((name for name in self.work.wanted if name in result.test.judges), "the whole project")
        if heading != self.heading:
            self.say(f"[bold]{heading}")
            self.heading = heading
        self.say(f"  {WORDS[result.outcome]}  {escape(result.test.title)}")
        for line in reason(result, self.work.laid) if result.outcome != "passed" else []:
            self.say(f"        {escape(line)}")
        if self.verbose and result.detail:
            self.say(escape(result.detail))

    def whose(self, notes: list[Note]) -> list[str]:
        """Say whose file each process ran; the reasons why that is not the learner's."""
        self.say("[bold]whose file ran")
        for note in (note for note in notes if yours(note, self.work.laid)):
            path = self.work.laid[note.place].path
            self.say(f"  {note.process} ({note.pid}): yours, {path}, sha256 {note.sha256[:12]}")
        problems = foreign(notes, self.work.laid, {name for test in self.work.tests for name in test.judges})
        for problem in problems:
            self.say(f"  [red]FAIL[/]  {escape(problem)}")
        return problems

    def say_left(self) -> None:
        """What is still to write, and where help is."""
        if not self.work.left:
            return
        card, name, tests = self.work.card, self.work.left[0], lesson.tests(self.work.card.folder)
        waiting = [f"{left} ({sum(left in test.judges for test in tests)})" for left in self.work.left]
        self.say(f"[bold]still stubs[/], and the number of tests that wait for each\n  {', '.join(waiting)}")
        path = paths.my() / card.name / lesson.exercises(card.folder)[name].name
        start = "" if path.exists() else f" (./thirty start {card.number} writes it)"
        self.say(f"{name} is still a stub: write it in {path}{start}. Its docstring says what it must do.")
        self.say(f"Start with: ./thirty hint {card.number} {name}")

    def remember(self, passed: list[str]) -> None:
        """Note in my/progress.json what passed, and take back what no longer does."""
        before = progress.read().get(self.work.card.name, {}).get("passed", {})
        kept = {name: day for name, day in before.items() if name not in self.work.wanted}
        today = date.today().isoformat()
        progress.record(self.work.card, passed={**kept, **{name: before.get(name, today) for name in passed}})

    def say_verdict(self, passed: list[str], good: bool) -> None:
        """The last line, and where help is for what is written and fails."""
        number, wanted = self.work.card.number, len(self.work.wanted)
        if good and self.work.whole:
            progress.checked(self.work.card)
            self.say(f"[bold green]Project {number} passes on your code[/], all {wanted} exercises of it.")
        elif good:
            self.say(f"[bold green]{self.work.wanted[0]} passes on your code.")
        else:
            failing = [name for name in self.work.wanted if name not in passed and name in self.work.done]
            stuck = f" Stuck on {failing[0]}? ./thirty hint {number} {failing[0]}" if failing else ""
            self.say(f"{len(passed)} of {wanted} exercises pass.{stuck}")


def passes(results: list[Result], name: str) -> bool:
    """An exercise passes if a test of it passed and none failed."""
    outcomes = {result.outcome for result in results if name in result.test.judges}
    return "passed" in outcomes and "failed" not in outcomes


def yours(note: Note, laid: dict[str, Mine]) -> bool:
    """Whether a process imported the learner's file as it was when the check began."""
    return note.place in laid and note.sha256 == laid[note.place].sha256


def foreign(notes: list[Note], laid: dict[str, Mine], judged: set[str]) -> list[str]:
    """Why what ran is not the learner's: a file that changed, one from outside the tree, or none at all."""
    names = {file.path.name for file in laid.values()}
    problems = [
        f"{note.process} ({note.pid}) ran {note.place}, sha256 {note.sha256[:12]}: that is not your file"
        for note in notes
        if not yours(note, laid)
        and (note.place in laid or (Path(note.place).is_absolute() and Path(note.place).name in names))
    ]
    for file in laid.values():
        if judged & set(file.exercises) and file.place not in {note.place for note in notes}:
            problems.append(f"no process imported {file.path}: the tests did not run your code")
    return problems


def reason(result: Result, laid: dict[str, Mine]) -> list[str]:
    """Why a test failed, in one to three lines, with the line of the learner's file where there is one."""
    if result.kind == "NotImplementedError" and "write " in result.message:
        name = result.message.split("write ", 1)[1].partition(":")[0]
        return [f"needs {name}, which is still a stub: write that first"]
    place, _, line = (result.where or "").rpartition(":")
    at = [f"{laid[place].path}, line {line}"] if place in laid else []
    return [*result.message.splitlines(), *at]
