"""The files that `thirty grade` writes: grades.csv, junit.xml, SUMMARY.md, and a Markdown file a student.

All of it is text that strangers have a hand in: cells are no formulas, XML holds no letter that XML forbids,
and Markdown shows messages as they are. The same submissions give the same bytes, SUMMARY.md's date left out.
"""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from common.cli.grading import Graded
from common.cli.submissions import Assignment, Submission
from common.files import write_text

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
PLACES = re.compile(r"(/tmp/\S*?thirty-\w+/|/tmp/pytest-of-\w+/pytest-\d+/)")  # which differ from run to run


@dataclass
class Mark:
    """A student's grade, of 100. `status`: graded | late | missing | void (in part) | failed (the grader)."""

    submission: Submission
    projects: list[Graded] = field(default_factory=list)
    days: int = 0
    left: float = 1.0
    before: float = 0.0
    score: float = 0.0
    status: str = "graded"
    problem: str = ""

    @property
    def complaints(self) -> list[str]:
        """Each test that failed, and why a project is void, in a line."""
        charges = [f"{project.name}: {charge}" for project in self.projects for charge in project.charges]
        failed = [
            f"{project.name}, {result['id'].rpartition('::')[2]}: {result['message'].partition(chr(10))[0]}"
            for project in self.projects
            for result in project.results
            if result["outcome"] == "failed"
        ]
        return charges + failed

    @property
    def look(self) -> list[str]:
        """What a person should look at."""
        return [
            f"{project.name}: {what}" for project in self.projects for what in project.charges + project.looks
        ]


def total(submission: Submission, projects: list[Graded], terms: Assignment, problem: str = "") -> Mark:
    """The grade from the projects' scores, their weights, and the penalty for being late."""
    grade = Mark(submission, projects, *terms.late(submission.submitted), problem=problem)
    whole = sum(terms.weight(project.number) for project in projects)
    points = sum(terms.weight(project.number) * project.score for project in projects)
    grade.before = round(100 * points / whole, 2) if whole else 0.0
    grade.score = round(grade.before * grade.left, 2)
    states = {project.status for project in projects}
    if problem:
        grade.status = "failed"
    elif submission.path is None or states <= {"missing"}:
        grade.status = "missing"
    elif "void" in states:
        grade.status = "void"
    elif grade.days:
        grade.status = "late"
    return grade


def write(out: Path, grades: list[Mark], terms: Assignment, summary: str) -> None:
    """Every file, each whole or not at all."""
    write_text(out / "grades.csv", table(grades, terms))
    write_text(out / "junit.xml", junit(grades))
    write_text(out / "SUMMARY.md", summary)
    for grade in grades:
        write_text(out / "students" / f"{grade.submission.student}.md", report(grade, terms))


def cell(text: object) -> str:
    """A cell that no spreadsheet takes for a formula."""
    text = FORBIDDEN.sub("?", str(text)).replace("\n", " ").replace("\r", " ")
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


def table(grades: list[Mark], terms: Assignment) -> str:
    """A line for each student: score, status, days late, a column for each project, what to look at."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    columns = [f"project{number:02d}" for number in terms.projects]
    lines.writerow(["student", "score", "status", "days_late", "before_penalty", *columns, "look"])
    for grade in grades:
        scores = {project.number: f"{100 * project.score:.2f}" for project in grade.projects}
        lines.writerow([
            cell(grade.submission.student),
            f"{grade.score:.2f}", grade.status, grade.days, f"{grade.before:.2f}",
            *(scores.get(number, "0.00") for number in terms.projects),
            cell("; ".join([*([grade.problem] if grade.problem else []), *grade.look])),
        ])  # fmt: skip
    return file.getvalue()


def clean(text: str) -> str:
    """A message without letters that XML forbids, addresses, and the names of temporary folders."""
    return PLACES.sub("", re.sub(r"0x[0-9a-f]{6,}", "0x…", FORBIDDEN.sub("?", text)))


def junit(grades: list[Mark]) -> str:
    """A test suite for each student and project, as CI systems and LMS plug-ins read it."""
    root = ElementTree.Element("testsuites", name="thirty grade")
    for grade in grades:
        for project in grade.projects:
            outcomes = [result["outcome"] for result in project.results]
            suite = ElementTree.SubElement(
                root, "testsuite", name=clean(f"{grade.submission.student}.{project.name}"),
                tests=str(len(outcomes) + (project.status != "graded")),
                failures=str(outcomes.count("failed")),
                errors=str(int(project.status != "graded")), skipped=str(outcomes.count("skipped")),
            )  # fmt: skip
            if project.status != "graded":
                case = ElementTree.SubElement(suite, "testcase", name="submission", classname=project.name)
                ElementTree.SubElement(
                    case, "error", message=clean(f"{project.status}: {'; '.join(project.charges)}")
                )
            for result in project.results:
                place, _, name = result["id"].partition("::")
                classname = place.removesuffix(".py").replace("/", ".")
                case = ElementTree.SubElement(suite, "testcase", name=name, classname=classname)
                if result["outcome"] != "passed":
                    kind = "failure" if result["outcome"] == "failed" else "skipped"
                    ElementTree.SubElement(case, kind, message=clean(result["message"])).text = clean(
                        f"{result['title']}\n{result['where']}"
                    )
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def quote(text: str) -> str:
    """Text of strangers as a code block that it cannot leave."""
    text = clean(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def report(grade: Mark, terms: Assignment) -> str:
    """What the student gets: the score, each project's exercises, the message of each failed test."""
    who = grade.submission
    lines = [f"# {clean(who.student)}: {grade.score:.2f} of 100", ""]
    if grade.problem:
        lines += ["This submission could not be graded. What the grader said:", "", quote(grade.problem), ""]
    if who.submitted and terms.due:
        lines += [
            f"Handed in {who.submitted.isoformat(' ', 'minutes')} (from {who.known_from}), due {terms.due}.",
            "",
        ]
    if grade.days:
        lines += [
            f"{grade.days} days late: {grade.before:.2f} points, of which {100 * grade.left:.0f} % remain.",
            "",
        ]
    for project in grade.projects:
        lines += section(project, terms.weight(project.number))
    return "\n".join(lines).rstrip() + "\n"


def section(project: Graded, weight: float) -> list[str]:
    """One project of a report."""
    words = {"graded": f"{100 * project.score:.2f} of 100", "missing": "not handed in",
             "void": "void, 0 points"}[project.status]  # fmt: skip
    lines = [f"## {project.name}: {words} (weight {weight:g})", ""]
    if project.charges:
        lines += ["It does not count, because", "", quote("\n".join(project.charges)), ""]
    if project.remarks:
        lines += [quote("\n".join(project.remarks)), ""]
    if project.exercises and project.results:
        lines += ["| exercise | tests passed |", "| --- | --- |"]
        lines += [f"| `{each.name}` | {f'{each.passed} of {each.of}' if each.written else 'not written'} |"
                  for each in project.exercises]  # fmt: skip
        lines.append("")
    elif project.status == "graded":
        lines += ["No exercise of it is written.", ""]
    for result in (result for result in project.results if result["outcome"] == "failed"):
        where = f", at {result['where'].rpartition('/')[2]}" if result["where"] else ""
        lines += [f"- **{clean(result['title'])}** (`{', '.join(result['judges'])}`{where})", ""]
        lines += [*(f"  {line}" for line in quote(result["message"]).splitlines()), ""]
    return lines
