"""Learning by writing: start, check, hint, solution, as a learner sees them."""

import ast
import io
import shutil
import sys
from pathlib import Path

import pytest

from common import lesson, shadow, stubs
from common.cli import learn, paths, progress
from common.cli.checking import Check
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TOY = "phase99_toy/project99_toy"
LESSONS = sorted(path.parent for path in ROOT.glob("phase*/project*/README.md"))


# ---- start


def test_start_writes_a_stub_of_every_technique_file(root, capsys):
    assert learn.Start("99")() == 0
    folder = paths.my() / "project99_toy"
    assert sorted(path.name for path in folder.iterdir()) == ["scale.py", "toy.py"]
    want = stubs.stub((root / TOY / "toy.py").read_bytes(), "for a hint, ./thirty hint 99 {name}")
    assert (folder / "toy.py").read_bytes() == want
    assert "./thirty check 99" in capsys.readouterr().out


def test_start_never_overwrites(learner, capsys):
    """A second start says that the file stays; --again keeps a copy under the next number."""
    (learner.folder / "toy.py").write_text("mine")
    assert learn.Start("99")() == 0
    assert (learner.folder / "toy.py").read_text() == "mine" and "stays as it is" in capsys.readouterr().out
    for number in (1, 2):
        (learner.folder / "toy.py").write_text(f"mine {number}")
        assert learn.Start("99", again=True)() == 0
        assert (learner.folder / f"toy.py.{number}").read_text() == f"mine {number}"
    assert "NotImplementedError" in (learner.folder / "toy.py").read_text()


def test_projects_without_exercises_and_shadow_trees_are_refused(root):
    with pytest.raises(UserError, match="project 98 has no exercises yet"):
        learn.Start("98")()
    (root / ".shadow.json").write_text("{}")
    with pytest.raises(UserError, match="leave out --mine"):
        Check("99")()


# ---- check: what it says


def test_check_of_the_untouched_stub_fails_and_helps(learner):
    learn.Start("99", again=True)()
    code, out = learner.check()
    assert code == 1
    assert f"running_sum is still a stub: write it in {paths.my()}/project99_toy/toy.py." in out
    assert "Start with: ./thirty hint 99 running_sum" in out and "0 of 3 exercises pass." in out
    assert "running_sum (2), Counter.add (2), scaled (1)" in out


def test_check_without_any_file_says_how_to_begin(learner):
    shutil.rmtree(learner.folder)
    code, out = learner.check("running_sum")
    assert code == 1 and "(./thirty start 99 writes it)" in out


def test_check_of_the_reference_passes(learner):
    """In plain words, with whose file ran; and the progress is noted."""
    code, out = learner.check()
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
        assert f"yours, {learner.folder / name}, sha256 {shadow.sha256(learner.folder / name)[:12]}" in out
    assert lines[-1] == "Project 99 passes on your code, all 3 exercises of it."
    assert learner.passed() == ["Counter.add", "running_sum", "scaled"]
    assert progress.read()["project99_toy"]["checked"]


def test_check_says_what_is_wrong_and_where(learner):
    """The message in a line or two and the learner's line, no traceback; what is right passes still."""
    learner.write("total = 0\nreturn [total.nothing for n in numbers]")
    code, out = learner.check()
    assert code == 1 and "Traceback" not in out
    assert "  FAIL  The sums are those of the naive version.\n" in out
    assert "AttributeError: 'int' object has no attribute 'nothing'" in out
    assert f"{learner.folder / 'toy.py'}, line 23" in out
    assert learner.passed() == ["scaled"]
    assert "1 of 3 exercises pass. Stuck on running_sum? ./thirty hint 99 running_sum" in out
    assert "toy.py:23: in running_sum" in learner.check(verbose=True)[1]


def test_check_shows_the_message_of_an_assertion(learner):
    learner.write("return [0, *naive(numbers)][-1:] and naive(numbers[1:])")
    out = learner.check("running_sum")[1]
    assert "assert [] == [3]" in out or "one sum for each number" in out


def test_check_of_one_exercise_runs_its_tests_alone(learner):
    learner.write("return None")
    code, out = learner.check("scaled")
    assert code == 0 and "scaled passes on your code." in out and "running_sum" not in out
    assert learner.passed() == ["scaled"]


def test_a_test_waits_for_all_the_exercises_it_judges(learner):
    """Half written: what can run runs, what cannot is named with its reason."""
    path = learner.folder / "toy.py"
    path.write_bytes(stubs.stub(path.read_bytes(), "x", ["Counter.add"]))
    code, out = learner.check()
    assert code == 1 and "Sums can be counted" not in out and "Everything together" not in out
    assert "The sums are those of the naive version" in out and "Counter.add is still a stub" in out
    assert learner.passed() == ["running_sum", "scaled"]


def test_a_stub_that_a_test_runs_into_is_named(learner):
    """running_sum is written, but leans on a function that is not."""
    learner.write("return [Counter().add(1).value for _ in numbers]")
    path = learner.folder / "toy.py"
    path.write_bytes(stubs.stub(path.read_bytes(), "x", ["Counter.add"]))
    assert "needs Counter.add, which is still a stub: write that first" in learner.check()[1]


def test_what_no_longer_passes_is_taken_back(learner):
    learner.check()
    learner.write("return None")
    learner.check()
    assert learner.passed() == ["scaled"]
    (learner.folder.parent / "progress.json").unlink()
    learner.check("scaled")
    assert learner.passed() == ["scaled"]


# ---- hint and solution


def test_hints_come_one_by_one_and_are_remembered(learner, capsys):
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


def test_a_hint_is_for_the_first_exercise_that_has_not_passed(learner, capsys):
    learner.check("running_sum")
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
def test_solution_is_not_shown_unless_asked_for(answer, learner, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert learn.Solution("99", "running_sum")() == 0
    out = capsys.readouterr().out
    assert "not shown" in out and "total += number" not in out


@pytest.mark.parametrize("yes", [True, False])
def test_solution_is_the_difference_to_ours(yes, learner, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    learner.write("total, sums = 0, []\nreturn sums")
    assert learn.Solution("99", "running_sum", yes=yes)() == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "+        total += number  # only one addition for each number" in lines
    assert " def running_sum(numbers):" in lines and "+    for number in numbers:" in lines
    assert not [line for line in lines if "Counter" in line], "of this function alone"


def test_solution_of_what_is_not_there_or_is_the_same(learner, capsys):
    (learner.folder / "scale.py").write_text("def scaled(:")
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
