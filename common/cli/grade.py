"""`thirty grade FOLDER`: every submission of a folder, each in processes of its own, behind a wall."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue

from tyro.conf import Positional

from common import lesson, shadow
from common.cli import gradebook, launch, paths, submissions
from common.cli.assign import numbers, projects
from common.cli.gradebook import Mark
from common.cli.grading import Exercise, Graded
from common.cli.proving import Proof, prove
from common.cli.submissions import Assignment, Submission
from common.cli.warden import Terms
from common.errors import UserError, demand


@dataclass(frozen=True)
class Grade:
    """Judge a folder of submissions: grades.csv, junit.xml, a summary, and a report for each student."""

    folder: Positional[Path]
    """A folder or a zip for each student; assignment.json and students.csv, if there are any."""
    phase: str = ""
    """Grade this phase: 4, phase04 or its folder. Without it, the projects that assignment.json names."""
    projects: str = ""
    """Or these projects: 10-13, or 8,10-12."""
    terms: Path | None = None
    """Another assignment.json than the one in the folder."""
    out: Path | None = None
    """Where to write; without it, FOLDER-grades."""
    workers: int = 0
    """Submissions at a time; 0: one for each processor."""
    seconds: float = 30.0
    """Time for one test."""
    minutes: float = 10.0
    """Time for one project of one submission."""
    memory: float = 4.0
    """GB for all processes of a submission together."""
    processes: int = 256
    """Processes and threads of a submission."""
    unwalled: bool = False
    """Grade where the system allows no wall: only files that you would run yourself."""

    def __call__(self) -> int:
        folder = self.folder.resolve()
        out = (self.out or folder.with_name(f"{folder.name}-grades")).resolve()
        limits = (self.seconds, self.minutes, self.memory, self.processes)
        demand(
            min(limits) > 0 and self.workers >= 0, "seconds, minutes, memory and processes must be above 0"
        )
        everybody = submissions.submissions(folder)
        terms = self.assignment(folder)
        limits = Terms(*limits, walled=not self.unwalled, hidden=(str(folder), str(out)))
        proof = prove(limits)
        if not self.unwalled and not proof.whole:
            raise UserError(
                f"this machine allows no wall around a submission ({why(proof)}): it could read and write "
                "what you can. Grade on Linux with user namespaces; or, with --unwalled, files that you "
                "would run yourself"
            )
        print("\n".join(["around every submission, as tried just now:", *proof.lines(), ""]), flush=True)
        with shadow.tree(paths.ROOT) as course:
            for wrong in course.glob("phase*/project*/tests/wrong_*.py"):
                wrong.unlink()  # a wrong solution is nearly a right one
            grading = Grading(course, terms, limits, self.workers)
            grading.reference()
            marks = grading.run(everybody)
        gradebook.write(out, marks, terms, summary(marks, terms, limits, proof))
        print(f"\n{tally(marks)}\n{out}/grades.csv, junit.xml, SUMMARY.md, students/")
        return 1 if any(mark.status == "failed" for mark in marks) else 0

    def assignment(self, folder: Path) -> Assignment:
        """The terms, with the projects of the command line before those of the file."""
        demand(not (self.phase and self.projects), "--phase and --projects: name one of the two")
        path = self.terms or folder / "assignment.json"
        terms = submissions.assignment(path, required=self.terms is not None)
        text = f"phase{self.phase}" if self.phase.isdigit() else self.phase
        chosen = projects(text or self.projects) if text or self.projects else None
        if chosen is None:
            demand(terms.projects, f"what to grade? --phase 4, --projects 10-13, or projects in {path}")
            chosen = projects(",".join(map(str, terms.projects)))
        return replace(terms, projects=tuple(numbers(chosen)))


class Grading:
    """Runs one process for each submission, and as many at a time as there are processors."""

    def __init__(self, course: Path, terms: Assignment, limits: Terms, workers: int):
        self.course, self.terms, self.limits = course, terms, limits
        self.unjudged: list[tuple[str, str]] = []  # (project, exercise) whose tests cannot run here
        here = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [None] * (os.cpu_count() or 1)
        self.workers, self.cores = workers or len(here), SimpleQueue()
        for number in range(self.workers):
            self.cores.put(here[number % len(here)])

    def run(self, everybody: list[Submission], say: Callable[[str], None] = print) -> list[Mark]:
        """The marks, in the order given; each is told as soon as it is there."""
        with ThreadPoolExecutor(self.workers) as pool:
            waiting = {pool.submit(self.mark, one): one.student for one in everybody}
            try:
                for done in as_completed(waiting):
                    mark = done.result()
                    look = f"  look: {mark.look[0]}" if mark.look else ""
                    say(f"{mark.score:6.2f}  {mark.status:8} {mark.submission.student}{mark.problem and ': '}"
                        f"{mark.problem}{look}")  # fmt: skip
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
        found = {done.result().submission.student: done.result() for done in waiting}
        return [found[one.student] for one in everybody]

    def reference(self) -> None:
        """Ours must pass, or the machine is at fault, and no student: UserError says which test does not."""
        print("our own solution first, under the same conditions …", flush=True)
        with tempfile.TemporaryDirectory(prefix="thirty-") as folder:
            for number in self.terms.projects:
                project = next(self.course.glob(f"phase*/project{number:02d}_*"))
                for path in set(lesson.exercises(project).values()):
                    target = Path(folder) / "my" / project.name / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(path.read_bytes())
            mark = self.mark(Submission("the reference", Path(folder)))
        if problems := [*filter(None, [mark.problem]), *mark.complaints]:
            raise UserError(
                f"our own solution does not pass on this machine ({problems[0]}): nobody was graded. "
                "See ./thirty doctor, give more --seconds, or leave that project out"
            )
        self.unjudged = [
            (project.name, each.name)
            for project in mark.projects
            for each in project.exercises
            if not each.of
        ]
        for project in mark.projects:
            if not any(each.of for each in project.exercises):
                raise UserError(f"{project.name}: no test of it can run on this machine; leave it out")
        for project, name in self.unjudged:
            print(f"{project}: no test of {name} can run on this machine; it counts for nobody")

    def mark(self, one: Submission) -> Mark:
        """One student's."""
        if one.path is None:
            cards = [(n, shadow_name(self.course, n)) for n in self.terms.projects]
            return gradebook.total(one, [Graded(n, name, "missing") for n, name in cards], self.terms)
        core = self.cores.get()
        try:
            graded, problem = self.grade(one, replace(self.limits, core=core))
        finally:
            self.cores.put(core)
        return gradebook.total(one, graded, self.terms, problem)

    def grade(self, one: Submission, limits: Terms) -> tuple[list[Graded], str]:
        """(the projects, "") or ([], why the grader's own process did not come to its end)."""
        with tempfile.TemporaryDirectory(prefix="thirty-") as folder:
            job, result = Path(folder) / "job.json", Path(folder) / "result.json"
            job.write_text(json.dumps({
                "path": str(one.path), "projects": self.terms.projects, "course": str(self.course),
                "terms": asdict(limits), "result": str(result), "unjudged": self.unjudged,
            }), encoding="utf-8")  # fmt: skip
            command = [sys.executable, "-c", launch.BOOT, str(paths.ROOT), "common.cli.grading", str(job)]
            longest = 120 + 2 * 60 * limits.minutes * len(self.terms.projects)
            try:
                done = subprocess.run(
                    command, env=launch.environment(), stdin=subprocess.DEVNULL, timeout=longest,
                    capture_output=True, encoding="utf-8", errors="replace",
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return [], f"did not come to an end in {longest:.0f} s"
            if done.returncode or not result.is_file():
                last = done.stderr.strip().splitlines()[-1:]
                return [], f"the grader ended with {done.returncode}: {''.join(last)}"
            tables = json.loads(result.read_text(encoding="utf-8"))
        return [
            Graded(**{**table, "exercises": [Exercise(**each) for each in table["exercises"]]})
            for table in tables
        ], ""


def shadow_name(course: Path, number: int) -> str:
    """The folder of a project."""
    return next(path.name for path in course.glob(f"phase*/project{number:02d}_*"))


def why(proof: Proof) -> str:
    """What is in the way of the wall, in a few words."""
    return proof.problem or ", ".join(name for name, stands in proof.stands.items() if not stands)


def tally(marks: list[Mark]) -> str:
    """How many there are of each status."""
    counts = Counter(mark.status for mark in marks)
    return f"{len(marks)} submissions: " + ", ".join(f"{counts[name]} {name}" for name in sorted(counts))


SUMMARY = """# Graded {now}

Projects {projects}; weights {weights}; due {due}. {tally}.
{scores}
## The wall

Tried by a program on this machine, just before:

{wall}

Limits: {limits.seconds:g} s a test, {limits.minutes:g} minutes a project, {limits.memory:g} GB of memory,
{limits.processes} processes. Our own solution passed under the same conditions.

## Look at these

{looks}

## Exercises

| project | exercise | whole | in part | not at all |
| --- | --- | --- | --- | --- |
{rows}
"""


def summary(marks: list[Mark], terms: Assignment, limits: Terms, proof: Proof) -> str:
    """What was graded, behind which walls, how it went, and whom to look at."""
    scores = [mark.score for mark in marks if mark.status != "missing"]
    middle, least, most = (statistics.median(scores), min(scores), max(scores)) if scores else (0, 0, 0)
    said = f"Of those handed in: median {middle:.2f}, from {least:.2f} to {most:.2f}.\n"
    looks = [
        f"- {gradebook.clean(mark.submission.student)}: `{gradebook.clean(what).replace('`', '')}`"
        for mark in marks
        for what in [*filter(None, [mark.problem]), *mark.look]
    ]
    by_name: dict[tuple[str, str], list[float]] = {}
    for project in (project for mark in marks for project in mark.projects if project.status == "graded"):
        for each in project.exercises:
            by_name.setdefault((project.name, each.name), []).append(each.score)
    rows = []
    for (project, name), each in sorted(by_name.items()):
        full, none = sum(score == 1 for score in each), sum(score == 0 for score in each)
        rows.append(f"| {project} | `{name}` | {full} | {len(each) - full - none} | {none} |")
    return SUMMARY.format(
        now=datetime.now().astimezone().isoformat(" ", "minutes"),
        projects=", ".join(map(str, terms.projects)),
        weights=", ".join(f"{terms.weight(number):g}" for number in terms.projects),
        due=terms.due or "at no time",
        tally=tally(marks),
        scores=said if scores else "",
        wall="\n".join(proof.lines()),
        limits=limits,
        looks="\n".join(looks) or "None.",
        rows="\n".join(rows),
    )
