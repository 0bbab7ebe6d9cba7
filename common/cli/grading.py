"""One submission, graded: `python -m common.cli.grading JOB` runs in a process of its own for each student.

JOB is JSON: {"path", "projects": [number, …], "course": the shadow tree without the wrong solutions, "terms":
those of `common/cli/warden.py`, "unjudged": [(project, exercise), …] that are left out, "result": where to
write a list of `Graded`}.

A project is judged as `thirty check` judges it: the tests of each exercise that was written, in a shadow tree
with the submitted files over ours. Two things are done to the files first: what is no exercise is put back as
it was handed out, and their text is read for what no solution needs (`common/cli/reading.py`). And when tests
have passed, they run once more on the same files with the bodies of the exercises gone: a test that passes
then did not pass because of them.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from common import lesson, shadow, stubs
from common.cli import cards, reading, submissions
from common.cli.cards import Card
from common.cli.checking import foreign
from common.cli.warden import Terms, Warden
from common.errors import UserError
from common.judge import Result
from common.lesson import Test
from common.shadow import Mine


@dataclass
class Exercise:
    """How one exercise went: of the tests that judge it, how many ran and passed."""

    name: str
    written: bool
    passed: int = 0
    of: int = 0

    @property
    def score(self) -> float:
        return self.passed / self.of if self.of else 0.0


@dataclass
class Graded:
    """A project of a submission. `status`: graded | missing | void; `charges`: why it is void."""

    number: int
    name: str
    status: str
    score: float = 0.0
    exercises: list[Exercise] = field(default_factory=list)
    results: list[dict] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    charges: list[str] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)


class Grader:
    """Grades one student's files of one project."""

    def __init__(self, card: Card, my: Path, course: Path, terms: Terms, unjudged: set[str]):
        self.card, self.my, self.course, self.terms = card, my, course, terms
        self.names = [name for name in lesson.exercises(card.folder) if name not in unjudged]
        self.graded = Graded(card.number, card.name, "graded")
        self.until = time.monotonic() + terms.minutes * 60

    def run(self) -> Graded:
        """The verdict on the project."""
        graded, names = self.graded, self.names
        if not (self.my / self.card.name).is_dir():
            graded.status = "missing"
            return graded
        files = list(self.files())
        done = {name for file in files for name in file.exercises if name not in file.left}
        tests = [test for test in lesson.tests(self.card.folder) if test.judges and set(test.judges) <= done]
        results = self.judge(files, tests) if tests and not graded.charges else []
        if passed := [result.test for result in results if result.outcome == "passed"]:
            self.counterproof(files, passed)
        graded.exercises = [exercise(name, name in done, results) for name in names]
        graded.results = [told(result) for result in results]
        graded.score = sum(each.score for each in graded.exercises) / max(1, len(names))
        if graded.charges:
            graded.status, graded.score = "void", 0.0
        return graded

    def files(self) -> Iterable[Mine]:
        """What was handed in, one file after the other, so that one that cannot be read harms no other."""
        for path in sorted((self.my / self.card.name).glob("*.py")):
            try:
                yield from self.file(path)
            except (UserError, ValueError, SyntaxError) as error:
                self.graded.remarks.append(short(error))
            except (RecursionError, MemoryError):
                self.graded.remarks.append(f"{path.name}: Python cannot read this: nested too deeply")

    def file(self, path: Path) -> list[Mine]:
        """One file as it will be judged; nothing where it is not taken, or nothing in it is written."""
        alone = path.parents[1] / f"only-{path.stem}" / self.card.name
        alone.mkdir(parents=True)
        path = path.rename(alone / path.name)
        found = shadow.mine(alone.parent, self.card.folder)
        if not found:
            self.graded.remarks.append(f"{path.name} was left out: it is no file of this project's exercises")
        source, graded = path.read_bytes(), self.graded
        ours = self.card.folder / path.name
        reference = ours.read_bytes() if found and found[0].exercises else None
        graded.looks += [f"{path.name}, {look}" for look in reading.looks(source, reference) if found]
        charges = reading.charges(source, reference or b"") if found else []
        graded.charges += [f"{path.name}, {charge}" for charge in charges]
        if reference is not None:
            if not charges:
                source, changed = reading.restored(source, reference)
                path.write_bytes(source)
                if changed:
                    graded.remarks.append(f"{path.name}: put back as it was handed out: {', '.join(changed)}")
            if same := [n for n in reading.word_for_word(source, reference) if n not in found[0].left]:
                graded.looks.append(f"{path.name}: word for word ours: {', '.join(same)}")
        return [replace(file, sha256=shadow.sha256(path)) for file in found if file.begun]

    def judge(self, files: list[Mine], tests: list[Test]) -> list[Result]:
        """The tests on these files."""
        laid = {file.place: file for file in files}
        with shadow.tree(self.course, files) as tree:
            warden = Warden(tree, tests, self.card.module, self.terms, self.until)
            results = [self.own_skip(result, laid) for result in warden.run()]
            self.graded.charges += warden.charges
            if not self.terms.walled:  # behind the wall there is nothing else that could have run
                judged = {name for test in tests for name in test.judges}
                seen = foreign(shadow.notes(tree), laid, judged) if all_ran(results) else []
                self.graded.charges += map(short, seen)
        return results

    def own_skip(self, result: Result, laid: dict[str, Mine]) -> Result:
        """A test that the submission itself skips has failed."""
        if result.outcome == "skipped" and (result.where or "").rpartition(":")[0] in laid:
            return replace(result, outcome="failed", message="the submission skips this test")
        return result

    def counterproof(self, files: list[Mine], passed: list[Test]) -> None:
        """The tests that passed must fail on the same files without the exercises' bodies."""
        with tempfile.TemporaryDirectory(prefix="thirty-") as folder:
            emptied = []
            for file in files:
                path = Path(folder) / file.path.name
                source = file.path.read_bytes()
                path.write_bytes(stubs.stub(source, "emptied") if file.exercises else source)
                emptied.append(replace(file, path=path))
            with shadow.tree(self.course, emptied) as tree:
                until = time.monotonic() + self.terms.minutes * 60  # whatever the first run has used up
                warden = Warden(tree, passed, self.card.module, self.terms, until)
                blind = [result.test.title for result in warden.run() if result.outcome == "passed"]
        if blind:
            self.graded.charges.append(f"tests pass although the functions are empty: {'; '.join(blind[:3])}")


def short(problem: object) -> str:
    """A message without the folders in which the files lay for a while."""
    return re.sub(r"[^\s'\"]*/(?=\w+\.py)", "", str(problem))


def all_ran(results: list[Result]) -> bool:
    """Whether every test came to its end, so that all files must have been imported."""
    return all(result.kind not in ("NotRun", "Stopped") for result in results)


def exercise(name: str, written: bool, results: list[Result]) -> Exercise:
    """An exercise's part: passed of those that judge it and ran; skipped tests count for nobody."""
    own = [result for result in results if name in result.test.judges and result.outcome != "skipped"]
    return Exercise(name, written, sum(result.outcome == "passed" for result in own), len(own))


def told(result: Result) -> dict:
    """A result as it is written down."""
    test = result.test
    return {"id": test.id, "title": test.title, "judges": list(test.judges), "outcome": result.outcome,
            "message": result.message, "where": result.where or ""}  # fmt: skip


def grade(job: dict) -> list[Graded]:
    """Every project of one submission."""
    terms = Terms(**{**job["terms"], "hidden": tuple(job["terms"]["hidden"])})
    course = Path(job["course"])
    chosen = [card for card in cards.cards(course) if card.number in job["projects"]]
    with tempfile.TemporaryDirectory(prefix="thirty-") as folder:
        my = Path(folder).resolve()
        remarks = submissions.gather(Path(job["path"]), [card.name for card in chosen], my)
        graded = []
        for card in chosen:
            unjudged = {each for name, each in job["unjudged"] if name == card.name}
            graded.append(Grader(card, my, course, terms, unjudged).run())
    for each in graded:
        each.remarks += [
            remark for remark in remarks if not remark.startswith("project") or each.name in remark
        ]
    return graded


if __name__ == "__main__":
    todo = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(todo["result"]).write_text(json.dumps([asdict(each) for each in grade(todo)]), encoding="utf-8")
