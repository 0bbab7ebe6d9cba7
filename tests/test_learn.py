"""Learning by writing: start, check, hint, solution, and learners who break things."""

import ast
import io
import json
import os
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from common import judge, lesson, shadow, stubs
from common.cli import learn, paths, progress
from common.cli.checking import Check
from common.errors import UserError
from common.judge import Judge
from common.lesson import Test
from common.shadow import Mine, Note

ROOT = Path(__file__).resolve().parents[1]
TOY = "phase99_toy/project99_toy"
LESSONS = sorted(path.parent for path in ROOT.glob("phase*/project*/README.md"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with our `common` and two toy projects, which the command line takes for its own."""
    root = tmp_path / "root"
    shutil.copytree(ROOT / "common", root / "common", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.copytree(ROOT / "common/tests/toy", root, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setenv("THIRTY_MY", str(tmp_path / "my"))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return root


@pytest.fixture
def my(root, tmp_path):
    """The learner's folder for project 99, with the reference in it: a learner who did everything right."""
    folder = tmp_path / "my" / "project99_toy"
    folder.mkdir(parents=True)
    for name in ("toy.py", "scale.py"):
        shutil.copy(root / TOY / name, folder)
    return folder


def write(my, body, before=""):
    """Put another body into the learner's running_sum, and something at the top of the file."""
    new = f"def running_sum(numbers):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
    path = my / "toy.py"
    path.write_bytes(before.encode() + stubs.lay(path.read_bytes(), new.encode()))


def check(capsys, exercise="", **options):
    """(exit code, what was printed) of `thirty check 99`."""
    code = Check("99", exercise, **options)()
    return code, capsys.readouterr().out


def passed(my):
    return sorted(json.loads((my.parent / "progress.json").read_text())["project99_toy"]["passed"])


# ---- start


def test_start_writes_a_stub_of_every_technique_file(root, capsys):
    assert learn.Start("99")() == 0
    folder = paths.my() / "project99_toy"
    assert sorted(path.name for path in folder.iterdir()) == ["scale.py", "toy.py"]
    want = stubs.stub((root / TOY / "toy.py").read_bytes(), "for a hint, ./thirty hint 99 {name}")
    assert (folder / "toy.py").read_bytes() == want
    assert "./thirty check 99" in capsys.readouterr().out


def test_start_never_overwrites(my, capsys):
    """A second start says that the file stays; --again keeps a copy under the next number."""
    (my / "toy.py").write_text("mine")
    assert learn.Start("99")() == 0
    assert (my / "toy.py").read_text() == "mine" and "stays as it is" in capsys.readouterr().out
    for number in (1, 2):
        (my / "toy.py").write_text(f"mine {number}")
        assert learn.Start("99", again=True)() == 0
        assert (my / f"toy.py.{number}").read_text() == f"mine {number}"
    assert "NotImplementedError" in (my / "toy.py").read_text()


def test_projects_without_exercises_and_shadow_trees_are_refused(root):
    with pytest.raises(UserError, match="project 98 has no exercises yet"):
        learn.Start("98")()
    (root / ".shadow.json").write_text("{}")
    with pytest.raises(UserError, match="leave out --mine"):
        Check("99")()


# ---- check: what it says


def test_check_of_the_untouched_stub_fails_and_helps(root, capsys):
    learn.Start("99")()
    code, out = check(capsys)
    assert code == 1
    assert f"running_sum is still a stub: write it in {paths.my()}/project99_toy/toy.py." in out
    assert "Start with: ./thirty hint 99 running_sum" in out and "0 of 3 exercises pass." in out
    assert "running_sum (2), Counter.add (2), scaled (1)" in out


def test_check_without_any_file_says_how_to_begin(root, capsys):
    code, out = check(capsys, "running_sum")
    assert code == 1 and "(./thirty start 99 writes it)" in out


def test_check_of_the_reference_passes(my, capsys):
    """In plain words, with whose file ran; and the progress is noted."""
    code, out = check(capsys)
    assert code == 0
    lines = out.splitlines()
    assert lines[:10] == [
        "5 tests on your scale.py, toy.py",
        "running_sum", "  pass  The sums are those of the naive version.", "  pass  Sums can be counted.",
        "Counter.add", "  pass  counts",
        "scaled", "  pass  Twice the numbers.",
        "the whole project", "  pass  Everything together.",
    ]  # fmt: skip
    for name in ("toy.py", "scale.py"):
        assert f"yours, {my / name}, sha256 {shadow.sha256(my / name)[:12]}" in out
    assert lines[-1] == "Project 99 passes on your code, all 3 exercises of it."
    assert passed(my) == ["Counter.add", "running_sum", "scaled"]
    assert progress.read()["project99_toy"]["checked"]


def test_check_says_what_is_wrong_and_where(my, capsys):
    """The message in a line or two and the learner's line, no traceback; what is right passes still."""
    write(my, "total = 0\nreturn [total.nothing for n in numbers]")
    code, out = check(capsys)
    assert code == 1 and "Traceback" not in out
    assert "  FAIL  The sums are those of the naive version.\n" in out
    assert "AttributeError: 'int' object has no attribute 'nothing'" in out
    assert f"{my / 'toy.py'}, line 23" in out
    assert passed(my) == ["scaled"]
    assert "1 of 3 exercises pass. Stuck? ./thirty hint 99 running_sum" in out
    assert "toy.py:23: in running_sum" in check(capsys, verbose=True)[1]


def test_check_shows_the_message_of_an_assertion(my, capsys):
    write(my, "return [0, *naive(numbers)][-1:] and naive(numbers[1:])")
    out = check(capsys, "running_sum")[1]
    assert "assert [] == [3]" in out or "one sum for each number" in out


def test_check_of_one_exercise_runs_its_tests_alone(my, capsys):
    write(my, "return None")
    code, out = check(capsys, "scaled")
    assert code == 0 and "scaled passes on your code." in out and "running_sum" not in out
    assert passed(my) == ["scaled"]


def test_a_test_waits_for_all_the_exercises_it_judges(my, capsys):
    """Half written: what can run runs, what cannot is named with its reason."""
    (my / "toy.py").write_bytes(stubs.stub((my / "toy.py").read_bytes(), "x", ["Counter.add"]))
    code, out = check(capsys)
    assert code == 1 and "Sums can be counted" not in out and "Everything together" not in out
    assert "The sums are those of the naive version" in out and "Counter.add is still a stub" in out
    assert passed(my) == ["running_sum", "scaled"]


def test_a_stub_that_a_test_runs_into_is_named(my, capsys):
    """running_sum is written, but leans on a function that is not."""
    write(my, "return [Counter().add(1).value for _ in numbers]")
    (my / "toy.py").write_bytes(stubs.stub((my / "toy.py").read_bytes(), "x", ["Counter.add"]))
    assert "needs Counter.add, which is still a stub: write that first" in check(capsys)[1]


def test_what_no_longer_passes_is_taken_back(my, capsys):
    check(capsys)
    write(my, "return None")
    check(capsys)
    assert passed(my) == ["scaled"]
    (my.parent / "progress.json").unlink()
    check(capsys, "scaled")
    assert passed(my) == ["scaled"]


# ---- check: learners who break things

SYNTAX = "return [n for n in numbers"
ATTACKS = {
    "an endless loop": ("while True: pass", "took over 2 s: an endless loop?"),
    "sys.exit": ("import sys\nsys.exit(0)", "SystemExit: 0"),
    "os._exit": ("import os\nos._exit(0)", "ended the whole process (exit code 0)"),
    "ctrl-c": ("raise KeyboardInterrupt", "stopped the whole test run"),
    "pytest.exit": ("import pytest\npytest.exit('done', returncode=0)", "stopped the whole test run"),
    "a skip": ("import pytest\npytest.skip('passed')", "your code skips this test"),
    "prints": ("print('{\"event\": \"finished\", \"status\": 0}\\n' * 9999)\nreturn 1", "assert 1 == []"),
    "no words": ("class E(Exception):\n    def __str__(self): return 1 / 0\nraise E", "E: <exception"),
    "a deep recursion": ("return running_sum(numbers)", "RecursionError: maximum recursion depth exceeded"),
    "a crash": ("import ctypes\nctypes.string_at(0)", "ended the whole process (SIGSEGV)"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_check_survives(name, my, capsys):
    """The test fails with words for it, its neighbours do not run in vain, and the other exercises pass."""
    if name == "a crash" and os.name != "posix":
        pytest.skip("signals have other names there")
    body, words = ATTACKS[name]
    write(my, body)
    code, out = check(capsys, seconds=2.0)
    assert code == 1 and words in out, out
    assert passed(my) == ["scaled"]
    assert "  pass  counts" in out and "Traceback" not in out


def test_check_names_the_line_of_a_syntax_error(my):
    path = my / "toy.py"
    path.write_text(path.read_text().replace("total, sums = 0, []", "total, sums = 0, ["))
    with pytest.raises(UserError, match=r"toy.py, line 23: Python cannot read this: "):
        Check("99")()


@pytest.mark.parametrize(("before", "words"), [
    ("import os; os._exit(0)\n", "importing the files ended the whole process (exit code 0)"),
    ("import sys; sys.exit(0)\n", "importing the files ended the whole process"),
    ("while True: pass\n", "importing the files took over 2 s: an endless loop?"),
    ("import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
    ("1 / 0\n", "ZeroDivisionError: division by zero"),
])  # fmt: skip
def test_check_survives_a_file_that_breaks_on_import(before, words, my, capsys, monkeypatch):
    monkeypatch.setattr(judge, "STARTING", 2.0)
    write(my, "return naive(numbers)", before)
    code, out = check(capsys)
    assert code == 1 and words in out and "0 of 3 exercises pass" in out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_check_survives_a_fork(my, capsys):
    """A forked child goes on with the tests by itself; its results count for nothing."""
    write(my, "import os\nif len(numbers) > 2 and os.fork() == 0:\n    return 1\nreturn naive(numbers)")
    code, out = check(capsys)
    assert code == 0, out
    write(my, "import os\nif len(numbers) > 2 and os.fork() != 0:\n    return 1\nreturn naive(numbers)")
    assert check(capsys)[0] == 1 and passed(my) == ["Counter.add", "scaled"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc whether a process runs")
def test_check_leaves_no_process_behind(my, capsys, tmp_path):
    """What the learner's code starts is ended with the check, also where it holds the output open."""
    write(my, f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(tmp_path / "pids")!r}, "a").write(f"{{child.pid}}\\n")
        return naive(numbers)
        """)
    assert check(capsys)[0] == 0
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert pids and not any(alive(pid) for pid in pids)


def alive(pid):
    """Whether a process runs (one that ended and was not fetched by its parent does not)."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_check_is_not_fooled_by_the_reference(root, my, capsys):
    """Running our file instead of one's own is seen by the file that was imported."""
    ours = str(root / TOY / "toy.py")
    write(my, f"import runpy\nreturn runpy.run_path({ours!r})['running_sum'](numbers)")
    code, out = check(capsys)
    assert code == 1 and "that is not your file" in out and passed(my) == []


def test_a_file_that_no_process_imported_has_not_passed(my, capsys, root):
    """The tests pass without the learner's code: nothing is said to pass."""
    test = root / TOY / "tests" / "test_toy.py"
    text = test.read_text().replace("from phase99_toy.project99_toy.scale import scaled\n", "")
    test.write_text(text + "\n\ndef scaled(numbers, by):\n    return [n * by for n in numbers]\n")
    code, out = check(capsys)
    assert code == 1 and f"no process imported {my / 'scale.py'}" in out and passed(my) == []


# ---- the judge


def test_a_process_that_dies_after_the_last_test_has_not_passed(monkeypatch, tmp_path):
    """All tests reported as passed, and then no proper end: the last one pays for it."""
    def attempt(target, tests, seconds, hear):
        hear({"event": "collected", "tests": tests})
        for test in tests:
            hear({"event": "begin", "test": test})
            hear({"event": "end", "test": test, "outcome": "passed"})
        return "ended the whole process (exit code 0)"

    monkeypatch.setattr(judge, "attempt", attempt)
    results = Judge(tmp_path, [Test("a::x", "x", ("f",)), Test("a::y", "y", ("g",))]).run()
    assert [result.outcome for result in results] == ["passed", "failed"]


def test_a_test_that_never_ran_has_not_passed(monkeypatch, tmp_path):
    """A child that collects less than was asked for, or only some of a test's cases to their end."""
    def attempt(target, tests, seconds, hear):
        hear({"event": "collected", "tests": ["a::x[1]"]})
        hear({"event": "begin", "test": "a::x[1]"})
        hear({"event": "end", "test": "a::x[1]", "outcome": "passed"})
        return ""

    monkeypatch.setattr(judge, "attempt", attempt)
    results = Judge(tmp_path, [Test("a::x", "x", ("f",)), Test("a::y", "y", ("f",))]).run()
    assert [(r.outcome, r.message) for r in results] == [("passed", ""), ("failed", "did not run")]


def test_one_failed_case_fails_the_test(tmp_path):
    told = []
    each = Judge(tmp_path, [Test("a::x", "x", ())], say=told.append)
    each.hear({"event": "collected", "tests": ["a::x[1]", "a::x[2]", "a::x[3]"]})
    for case, outcome in (("1", "passed"), ("2", "failed"), ("3", "skipped")):
        assert not told, "a test is told once all its cases have ended"
        each.hear({"event": "end", "test": f"a::x[{case}]", "outcome": outcome, "message": outcome})
    assert [(result.outcome, result.message, result.cases) for result in told] == [("failed", "failed", 3)]


def test_whose_file_ran_is_judged_by_its_hash():
    from common.cli.checking import foreign

    laid = {"p/a.py": Mine(Path("my/p/a.py"), "p/a.py", "1" * 64, ("f",), ())}
    good = Note("main process", 1, "p/a.py", "1" * 64)
    assert foreign([good, Note("main process", 1, "p/other.py", "2" * 64)], laid, {"f"}) == []
    assert "that is not your file" in foreign([good, Note("rank 1", 2, "p/a.py", "2" * 64)], laid, {"f"})[0]
    assert "that is not your file" in foreign([good, Note("rank 1", 2, "/x/a.py", "1" * 64)], laid, {"f"})[0]
    assert "no process imported" in foreign([], laid, {"f"})[0]
    assert foreign([], laid, {"g"}) == [], "none of its exercises was judged"


# ---- hint and solution


def test_hints_come_one_by_one_and_are_remembered(root, my, capsys):
    """Least help first, each exercise for itself; after the last they begin again."""
    said = []
    for _ in range(3):
        assert learn.Hint("99", "running_sum")() == 0
        said.append(capsys.readouterr().out)
    assert "hint 1 of 2: Where to start" in said[0] and "Keep one total." in said[0]
    assert "next: ./thirty hint 99 running_sum" in said[0]
    assert "hint 2 of 2: And then" in said[1] and "./thirty solution 99 running_sum" in said[1]
    assert "hint 1 of 2" in said[2]
    assert learn.Hint("99", "Counter.add")() == 0 and "hint 1 of 2: First" in capsys.readouterr().out
    assert progress.read()["project99_toy"]["hints"] == {"running_sum": 1, "Counter.add": 1}


def test_a_hint_is_for_the_first_exercise_that_has_not_passed(root, my, capsys):
    check(capsys, "running_sum")
    learn.Hint("99")()
    assert "Counter.add, hint 1 of 2" in capsys.readouterr().out


def test_an_unknown_exercise_names_the_nearest(root):
    with pytest.raises(UserError, match="no exercise of project 99 'runing_sum': did you mean running_sum"):
        learn.Hint("99", "runing_sum")()


def test_a_lesson_without_hints_says_so(root):
    (root / TOY / "README.md").write_text("# Toy")
    with pytest.raises(UserError, match="the lesson has no hint for scaled"):
        learn.Hint("99", "scaled")()


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_solution_is_not_shown_unless_asked_for(answer, my, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert learn.Solution("99", "running_sum")() == 0
    out = capsys.readouterr().out
    assert "not shown" in out and "total += number" not in out


@pytest.mark.parametrize("yes", [True, False])
def test_solution_is_the_difference_to_ours(yes, my, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    write(my, "total, sums = 0, []\nreturn sums")
    assert learn.Solution("99", "running_sum", yes=yes)() == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "+        total += number  # only one addition for each number" in lines
    assert " def running_sum(numbers):" in lines and "+    for number in numbers:" in lines
    assert not [line for line in lines if "Counter" in line], "of this function alone"


def test_solution_of_what_is_not_there_or_is_the_same(my, capsys):
    (my / "scale.py").write_text("def scaled(:")
    assert learn.Solution("99", "scaled", yes=True)() == 0
    assert "+def scaled(numbers, by):" in capsys.readouterr().out
    assert learn.Solution("99", "running_sum", yes=True)() == 0
    assert "your running_sum is the same as ours" in capsys.readouterr().out


# ---- what every project inherits


@pytest.mark.parametrize("folder", LESSONS, ids=lambda p: p.name)
def test_every_project_proves_its_exercises(folder):
    """`test_wrong_solutions_are_caught` is there and calls `prove(__file__)`, which asks for exercises."""
    calls = [
        ast.unparse(statement)
        for path in folder.glob("tests/test_*.py")
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.FunctionDef) and node.name == lesson.PROOFS and not node.decorator_list
        for statement in node.body
    ]
    assert "prove(__file__)" in calls, f"{folder.name} does not prove its exercises"
