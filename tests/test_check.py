"""`check` withstands what learners write: it says what happened, judges the rest, passes nothing unseen."""

import os
import sys
from pathlib import Path

import pytest

from common import judge
from common.cli.checking import Check, foreign
from common.errors import UserError
from common.judge import Judge
from common.lesson import Test
from common.shadow import Mine, Note

TOY = "phase99_toy/project99_toy"

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
def test_check_survives(name, learner):
    """The test fails with words for it, its neighbours do not run in vain, and the other exercises pass."""
    if name == "a crash" and os.name != "posix":
        pytest.skip("signals have other names there")
    body, words = ATTACKS[name]
    learner.write(body)
    code, out = learner.check(seconds=2.0)
    assert code == 1 and words in out, out
    assert learner.passed() == ["scaled"]
    assert "  pass  counts" in out and "Traceback" not in out


def test_check_names_the_line_of_a_syntax_error(learner):
    path = learner.folder / "toy.py"
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
def test_check_survives_a_file_that_breaks_on_import(before, words, learner, monkeypatch):
    monkeypatch.setattr(judge, "STARTING", 2.0)
    learner.write("return naive(numbers)", before)
    code, out = learner.check()
    assert code == 1 and words in out and "0 of 3 exercises pass" in out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_check_survives_a_fork(learner):
    """A forked child goes on with the tests by itself; its results count for nothing."""
    learner.write("import os\nif len(numbers) > 2 and os.fork() == 0:\n    return 1\nreturn naive(numbers)")
    code, out = learner.check()
    assert code == 0, out
    learner.write("import os\nif len(numbers) > 2 and os.fork() != 0:\n    return 1\nreturn naive(numbers)")
    assert learner.check()[0] == 1 and learner.passed() == ["Counter.add", "scaled"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc whether a process runs")
def test_check_leaves_no_process_behind(learner, tmp_path):
    """What the learner's code starts is ended with the check, also where it holds the output open."""
    learner.write(f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(tmp_path / "pids")!r}, "a").write(f"{{child.pid}}\\n")
        return naive(numbers)
        """)
    assert learner.check()[0] == 0
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert pids and not any(alive(pid) for pid in pids)


def alive(pid):
    """Whether a process runs (one that ended and was not fetched by its parent does not)."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_check_is_not_fooled_by_the_reference(root, learner):
    """Running our file instead of one's own is seen by the file that was imported."""
    ours = str(root / TOY / "toy.py")
    learner.write(f"import runpy\nreturn runpy.run_path({ours!r})['running_sum'](numbers)")
    code, out = learner.check()
    assert code == 1 and "that is not your file" in out and learner.passed() == []


def test_a_file_that_no_process_imported_has_not_passed(learner, root):
    """The tests pass without the learner's code: nothing is said to pass."""
    test = root / TOY / "tests" / "test_toy.py"
    text = test.read_text().replace("from phase99_toy.project99_toy.scale import scaled\n", "")
    test.write_text(text + "\n\ndef scaled(numbers, by):\n    return [n * by for n in numbers]\n")
    code, out = learner.check()
    assert code == 1 and f"no process imported {learner.folder / 'scale.py'}" in out
    assert learner.passed() == []


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
    laid = {"p/a.py": Mine(Path("my/p/a.py"), "p/a.py", "1" * 64, ("f",), ())}
    good = Note("main process", 1, "p/a.py", "1" * 64)
    assert foreign([good, Note("main process", 1, "p/other.py", "2" * 64)], laid, {"f"}) == []
    assert "that is not your file" in foreign([good, Note("rank 1", 2, "p/a.py", "2" * 64)], laid, {"f"})[0]
    assert "that is not your file" in foreign([good, Note("rank 1", 2, "/x/a.py", "1" * 64)], laid, {"f"})[0]
    assert "no process imported" in foreign([], laid, {"f"})[0]
    assert foreign([], laid, {"g"}) == [], "none of its exercises was judged"


