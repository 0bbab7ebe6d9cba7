"""`grade` behind its wall: whatever a submission tries, it gets what it deserves, and nobody else pays."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common import stubs
from common.cli import grade, gradebook, paths, proving, warden
from common.cli.grade import Grade
from common.cli.warden import Terms
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TOY = "phase99_toy/project99_toy"
LIMITS = {"seconds": 6.0, "minutes": 2.0, "memory": 0.5, "processes": 32}
WALL = proving.prove(Terms(memory=0.5, processes=24))
walled = pytest.mark.skipif(not WALL.whole, reason=f"no wall here: {grade.why(WALL)}")


@dataclass
class Attack:
    """Bodies for the three exercises (empty: right ones), and what the student gets."""

    score: float
    words: tuple[str, ...] = ()  # in the student's report, or in what a person should look at
    running_sum: str = ""
    add: str = ""
    scaled: str = ""
    before: str = ""  # at the top of toy.py
    status: str = "graded"


THIRD, HALF = 33.33, 50.0
ATTACKS = {
    "ada": Attack(100.0),
    "ends": Attack(0.0, ("SystemExit: 0", "took over 6 s: an endless loop?", "ended the whole process (exit"),
                   "import sys\nsys.exit(0)", "while True: pass", "import os\nos._exit(0)"),
    "fills": Attack(THIRD, ("MemoryError", "took over "),
                    "import os, time\ntry:\n    while True: os.fork()\nexcept OSError: time.sleep(60)",
                    "held = []\nwhile True: held.append(bytearray(1 << 24))"),
    "writes": Attack(THIRD, ("tried to write pyproject.toml", "tried to reach 192.0.2.1", "subprocess"),
                     "open('pyproject.toml', 'a').write('x')\nreturn naive(numbers)",
                     "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\n"
                     "except OSError: pass\nself.seen += number\nreturn Total(self.seen)",
                     "import subprocess\nsubprocess.run(['sh', '-c', 'echo x >> {outside}'])\n"
                     "return [n * by for n in numbers]"),
    "reads": Attack(THIRD, ("No such file or directory", "runpy"),
                    "import runpy\nreturn runpy.run_path({ours!r})['running_sum'](numbers)",
                    "return open({others!r}).read()"),
    "patches": Attack(0.0, ("exchanged what is not its own", "tests pass although"),
                      "return 1", status="void",
                      before="import _pytest.python as p\nsetattr(p.Function, 'runtest', print)\n"),
    "swaps": Attack(0.0, ("exchanged what is not its own: ", "test_toy.naive"),
                    "import sys\nsys._getframe(1).f_globals['naive'] = lambda numbers: [0]\nreturn [0]",
                    status="void"),
    "forges": Attack(0.0, ("wrote into the report",),
                     "import json, sys\nwith open(sys.argv[1], 'a') as report:\n"
                     "    report.write(json.dumps({{'event': 'finished', 'status': 0}}) + '\\n')\nreturn [1]",
                     status="void"),
    "prints": Attack(83.33, ("one sum for each number",),
                     "print('{{\"event\": \"finished\", \"status\": 0}}\\n' * 999)\n"
                     "return naive(numbers)[1:]"),
    "equals": Attack(0.0, ("defines __eq__",), "return Yes()", status="void",
                     before="class Yes(list):\n    def __eq__(self, other): return True\n"),
    "skips": Attack(HALF, ("the submission skips this test",), "import pytest\npytest.skip('passed')"),
}  # fmt: skip


def toys(root):
    """A repository with our `common` and the toy projects."""
    shutil.copytree(ROOT / "common", root / "common", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.copytree(ROOT / "common/tests/toy", root, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", root)


def write(root, folder, attack, **places):
    """A submission: the reference, with an attack's bodies."""
    folder.mkdir(parents=True)
    for name in ("toy.py", "scale.py"):
        shutil.copy(root / TOY / name, folder)
    for name, head, body in (
        ("toy.py", "def running_sum(numbers):\n", attack.running_sum),
        ("toy.py", "class Counter:\n    def add(self, number):\n", attack.add),
        ("scale.py", "def scaled(numbers, by):\n", attack.scaled),
    ):
        if body:
            text = textwrap.indent(body.format(**places), "        " if "class" in head else "    ")
            path = folder / name
            path.write_bytes(stubs.lay(path.read_bytes(), f"{head}{text}\n".encode()))
    path = folder / "toy.py"
    path.write_text(attack.before + path.read_text())


def archive(path, files):
    """A zip of these names and contents."""
    with zipfile.ZipFile(path, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)


@dataclass
class Class:
    """What came out for all students."""

    folder: Path
    rows: dict
    said: str
    code: int

    def report(self, student):
        return (self.folder / "students" / f"{student}.md").read_text()


def run(root, folder, monkeypatch, capsys=None, **options):
    """`thirty grade FOLDER --projects 99` in that repository."""
    monkeypatch.setattr(paths, "ROOT", root)
    began = time.monotonic()
    code = Grade(folder, **{"projects": "99", **LIMITS, **options})()
    out = folder.with_name(f"{folder.name}-grades")
    with open(out / "grades.csv", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    return Class(out, rows, f"{time.monotonic() - began:.1f} s", code)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """One folder of submissions with every attack in it, graded once."""
    if not WALL.whole:
        pytest.skip(f"no wall here: {grade.why(WALL)}")
    root = tmp_path_factory.mktemp("grade").resolve() / "root"
    toys(root)
    folder, outside = root.parent / "handed_in", root.parent / "outside"
    outside.write_text("as it was")
    places = {"outside": str(outside), "ours": str(root / TOY / "toy.py"),
              "others": str(folder / "ada/my/project99_toy/scale.py")}  # fmt: skip
    for name, attack in ATTACKS.items():
        write(root, folder / name / "my/project99_toy", attack, **places)
    toy, scale = ((root / TOY / name).read_text() for name in ("toy.py", "scale.py"))
    archive(folder / "zipped.zip", {"x/my/project99_toy/toy.py": toy, "x/my/project99_toy/scale.py": scale,
                                    "__MACOSX/x/my/project99_toy/._toy.py": "\0"})  # fmt: skip
    oracle = toy.replace("sum(numbers[: n + 1])", "0").replace("total += number", "pass")
    archive(folder / "oracle.zip", {"project99/toy.py": oracle, "project99/scale.py": scale})
    broken = {"project99/toy.py": "def running_sum(:\n", "project99/scale.py": scale}
    archive(folder / "broken_file.zip", broken)
    (folder / "no_zip.zip").write_bytes(b"PK\3\4 and nothing more")
    stub = stubs.stub((root / TOY / "toy.py").read_bytes(), "a hint").decode()
    archive(folder / "stub.zip", {"project99/toy.py": stub})
    (folder / "students.csv").write_text(
        "student,submitted\nada,2026-11-30T22:00+00:00\nzipped,2026-12-02T12:00+00:00\nabsent,\n"
    )
    terms = {"projects": [99], "due": "2026-11-30T23:59+00:00", "late_per_day": 0.1, "late_days": 5}
    (folder / "assignment.json").write_text(json.dumps(terms))
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))  # in time
    with pytest.MonkeyPatch.context() as patch:
        found = run(root, folder, patch)
    found.outside = outside.read_text()
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_what_it_deserves(name, graded):
    attack, row = ATTACKS[name], graded.rows[name]
    report = graded.report(name) + row["look"]
    assert (float(row["score"]), row["status"]) == (attack.score, attack.status), report
    for words in attack.words:
        assert words in report, report


def test_no_attack_harms_anybody_else(graded):
    """The honest get all, what lies outside stays as it was, and no process is left."""
    assert graded.outside == "as it was" and graded.code == 0
    assert graded.rows["ada"]["score"] == "100.00" and graded.rows["ada"]["look"] == ""
    assert not [line for line in processes() if str(graded.folder.parent) in line]


def processes():
    """The command lines of this machine's processes."""
    if sys.platform != "linux":
        return []
    return [warden.safe(path.read_text, "") for path in Path("/proc").glob("[0-9]*/cmdline")]


def test_what_is_not_in_order_is_said(graded):
    """Late, absent, a file that Python cannot read, a broken zip, a stub, an oracle that was exchanged."""
    rows = graded.rows
    late = rows["zipped"]
    assert (late["score"], late["status"], late["days_late"]) == ("80.00", "late", "2")
    assert "2 days late: 100.00 points, of which 80 % remain" in graded.report("zipped")
    assert (rows["absent"]["score"], rows["absent"]["status"]) == ("0.00", "missing")
    assert rows["broken_file"]["score"] == "33.33"
    assert "toy.py, line 1: Python cannot read this" in graded.report("broken_file")
    assert rows["no_zip"]["status"] == "missing" and "no_zip.zip cannot be read" in graded.report("no_zip")
    assert rows["stub"]["score"] == "0.00" and "No exercise of it is written" in graded.report("stub")
    assert rows["oracle"]["score"] == "50.00"
    assert "put back as it was handed out: naive" in graded.report("oracle")


def test_what_is_written_can_be_read(graded):
    """JUnit XML parses and counts; the summary names the walls and those to look at."""
    root = ElementTree.parse(graded.folder / "junit.xml").getroot()
    suites = {suite.get("name"): suite for suite in root}
    assert suites["ada.project99_toy"].get("failures") == "0" and len(suites["ada.project99_toy"]) == 4
    assert suites["swaps.project99_toy"].get("errors") == "1"
    assert len(suites["ends.project99_toy"].findall(".//failure")) == 4
    said = (graded.folder / "SUMMARY.md").read_text()
    assert said.count("- stands: ") == 6 and "DOES NOT" not in said and "- patches: `project99_toy" in said
    assert "| project99_toy | `scaled` |" in said


def test_without_a_wall_nobody_is_graded_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "prove", lambda terms: proving.Proof({}, "not permitted"))
    (tmp_path / "in/ada").mkdir(parents=True)
    with pytest.raises(UserError, match=r"allows no wall around a submission \(not permitted\)"):
        Grade(tmp_path / "in", phase="4")()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits for processes")
def test_unwalled_the_guard_refuses(tmp_path, monkeypatch):
    """Without namespaces Python itself still refuses to write outside and to read ours."""
    root, folder, outside = tmp_path / "root", tmp_path / "in", tmp_path / "outside"
    toys(root)
    outside.write_text("as it was")
    places = {"outside": str(outside), "ours": str(root / TOY / "toy.py"), "others": str(folder / "x")}
    write(root, folder / "writes/project99", ATTACKS["writes"], **{**places, "outside": str(outside)})
    write(root, folder / "reads/project99", ATTACKS["reads"], **places)
    (folder / "writes/project99/scale.py").unlink()
    found = run(root, folder, monkeypatch, unwalled=True)
    assert found.rows["writes"]["score"] == "0.00" and outside.read_text() == "as it was"
    assert found.rows["reads"]["score"] == "33.33" and "tried to read" in found.report("reads")
    assert "DOES NOT STAND: reading" in (found.folder / "SUMMARY.md").read_text()


def test_a_machine_on_which_ours_fails_grades_nobody(tmp_path, monkeypatch):
    """Then the course or the machine is at fault: no student gets a zero for it."""
    if not WALL.whole:
        pytest.skip("no wall here")
    root = tmp_path / "root"
    toys(root)
    scale = root / TOY / "scale.py"
    scale.write_text(scale.read_text().replace("number * by", "number + by"))
    write(root, tmp_path / "in/ada/project99", Attack(0.0))
    with pytest.raises(UserError, match=r"our own solution does not pass on this machine .*test_scaled"):
        run(root, tmp_path / "in", monkeypatch)


@walled
def test_the_memory_of_all_processes_together_is_watched():
    program = "import os, time\nheld = bytearray((60 if os.fork() == 0 else 50) << 20)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program])
    try:
        until = time.monotonic() + 20
        while warden.held(child.pid) < 110 << 20 and time.monotonic() < until:
            time.sleep(0.05)
        assert 110 << 20 < warden.held(child.pid) < 200 << 20
    finally:
        subprocess.run(["kill", "--", *(str(pid) for pid in below(child.pid)), str(child.pid)], check=True)
        child.wait()


def below(pid):
    """The children of a process."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat")
            if warden.safe(path.read_text, "x x x -1").rpartition(")")[2].split()[1] == str(pid)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@walled
def test_two_hundred_submissions(tmp_path, monkeypatch):
    """Attackers among honest ones, as many at a time as there are processors; twice the same bytes."""
    root, folder = tmp_path / "root", tmp_path / "in"
    toys(root)
    kinds = ["ada", "swaps", "prints", "reads", "forges", "skips"]
    places = {"outside": "/nowhere", "ours": str(root / TOY / "toy.py"), "others": str(folder / "x")}
    for number in range(200):
        kind = kinds[number % 24] if number % 24 < len(kinds) else "ada"
        write(root, folder / f"{number:03d}_{kind}/my/project99_toy", ATTACKS[kind], **places)
    found = run(root, folder, monkeypatch, seconds=30.0)
    for name, row in found.rows.items():
        assert float(row["score"]) == ATTACKS[name[4:]].score, found.report(name)
    before = {path: path.read_bytes() for path in found.folder.rglob("*") if path.suffix in (".csv", ".xml")}
    print(found.said)
    again = run(root, folder, monkeypatch, seconds=30.0)
    assert before == {path: path.read_bytes() for path in before} and again.rows == found.rows


def test_what_cannot_be_graded_is_refused():
    """In one line: what to grade, and only one way to say it."""
    nowhere = Path("nowhere")
    for options, words in (({"phase": "4", "projects": "10"}, "name one of the two"), ({}, "what to grade")):
        with pytest.raises(UserError, match=words):
            Grade(nowhere, **options).assignment(nowhere)
    assert Grade(nowhere, phase="4").assignment(nowhere).projects == (10, 11, 12, 13)


def test_csv_of_attackers_is_no_formula():
    assert gradebook.cell("=cmd|' /C calc'!A0").startswith("'=")
    text = gradebook.quote("```\n# 100 of 100\n\x1b[2J")
    assert text.startswith("````text") and "\x1b" not in text
    assert list(csv.reader(io.StringIO(gradebook.cell("a\nb")))) == [["a b"]]
