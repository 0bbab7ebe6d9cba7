"""The parts that run in a child of their own, here in this process: what each writes down."""

import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest

from common import nursery, recorder
from common.cli import witness

TOY = Path(__file__).parent / "toy"
AT = "phase99_toy/project99_toy"
TESTS = f"{AT}/tests/test_toy.py"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The toy as the current folder and first on the path; what a worker changes is put back."""
    shutil.copytree(TOY, tmp_path, dirs_exist_ok=True)
    settings = ["[tool.pytest.ini_options]", 'addopts = "--import-mode=importlib"',
                'markers = ["slow", "exercise(*names)"]']  # fmt: skip
    (tmp_path / "pyproject.toml").write_text("\n".join(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys.modules["common"], "__path__", list(sys.modules["common"].__path__))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("phase99_toy"):
            del sys.modules[name]


def events(report):
    return [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]


def run(root, *tests, options=()):
    """(pytest's status, what was written, by event)."""
    report = root / "report.jsonl"
    status = recorder.run(report, [f"{TESTS}::{test}" if test else TESTS for test in tests], options)
    return status, events(report)


def test_events_of_tests_that_pass(root):
    """The wanted tests alone, in the order asked for, every case of them; and a proper end."""
    status, found = run(root, "test_scaled", "test_matches_naive")
    ids = [f"{TESTS}::test_scaled", *(f"{TESTS}::test_matches_naive[numbers{i}]" for i in range(3))]
    assert status == 0 and found[0] == {"event": "collected", "tests": ids}
    assert [(e["event"], e["test"]) for e in found[1:-1]] == [(e, i) for i in ids for e in ("begin", "end")]
    assert {e["outcome"] for e in found if e["event"] == "end"} == {"passed"}
    assert found[-1] == {"event": "finished", "status": 0}


def test_events_of_whole_files(root):
    """A path stands for all its tests; those marked slow are left out."""
    (root / TESTS).write_text((root / TESTS).read_text().replace("    prove(__file__)", "    pass"))
    collected = run(root, "")[1][0]["tests"]
    assert len(collected) == 9 and f"{TESTS}::test_scaled_slowly" in collected
    (root / "report.jsonl").unlink()
    assert len(run(root, "", options=("-m", "not slow"))[1][0]["tests"]) == 8


def test_events_of_tests_that_fail_or_skip(root):
    """The message, the kind, the line outside the tests; a skip with its reason; a fixture that fails."""
    toy = root / AT / "toy.py"
    toy.write_text(toy.read_text().replace("total += number", "total += numbers"))
    (root / TESTS).write_text(
        "import pytest\n"
        f"from {AT.replace('/', '.')}.toy import running_sum\n"
        "@pytest.fixture\ndef broken():\n    raise ValueError('no fixture')\n"
        "def test_raises():\n    running_sum([1])\n"
        "def test_asserts():\n    assert [1, 2] == [1, 3], 'not equal'\n"
        "def test_skips():\n    pytest.skip('not today')\n"
        "def test_fixture(broken):\n    pass\n"
        "@pytest.mark.xfail(strict=True)\ndef test_unexpected():\n    pass\n"
    )
    status, found = run(root, "")
    ends = {e["test"].rpartition("::")[2]: e for e in found if e["event"] == "end"}
    assert status == 1 and {name: end["outcome"] for name, end in ends.items()} == {
        "test_raises": "failed", "test_asserts": "failed", "test_skips": "skipped", "test_fixture": "failed",
        "test_unexpected": "failed"}  # fmt: skip
    assert ends["test_raises"]["kind"] == "TypeError" and ends["test_raises"]["where"] == f"{AT}/toy.py:25"
    assert "running_sum([1])" in ends["test_raises"]["detail"]
    assert ends["test_asserts"]["message"].splitlines()[0].startswith("not equal")
    assert ends["test_asserts"]["where"] is None and ends["test_skips"]["message"].endswith("not today")
    assert ends["test_fixture"]["message"] == "ValueError: no fixture"
    assert ends["test_unexpected"]["message"] == "passed, and was expected to fail"


@pytest.mark.parametrize(("line", "kind", "message"), [
    ("import nothing_of_that_name", "ModuleNotFoundError", "No module named 'nothing_of_that_name'"),
    ("x = (", "SyntaxError", "was never closed"),
    ("1 / 0", "ZeroDivisionError", "division by zero"),
])  # fmt: skip
def test_events_of_a_file_that_breaks_on_import(root, line, kind, message):
    """What the import raised, not pytest's wrapping of it, and where."""
    (root / AT / "scale.py").write_text(f"{line}\n")
    found = run(root, "test_scaled")[1]
    assert [e["event"] for e in found] == ["broken", "collected", "finished"] and found[1]["tests"] == []
    assert found[0]["kind"] == kind and message in found[0]["message"]
    assert found[0]["where"] == f"{AT}/scale.py:1" and found[0]["path"] == TESTS


def test_another_process_writes_nothing(tmp_path):
    """The plugin goes along into a forked child, where it must be silent."""
    each = recorder.Recorder(tmp_path / "report.jsonl", [])
    each.pid = os.getpid() + 1
    each.write("finished", status=0)
    assert not (tmp_path / "report.jsonl").exists()


@pytest.mark.parametrize(("text", "brief"), [
    ("AssertionError: a\n\n  b\nc", "AssertionError: a\nb"),
    ("Tensor-likes are not close!\n\nMismatched: 1 / 4\nGreatest absolute difference: 1.0 at (0,)\nx",
     "Tensor-likes are not close!\nGreatest absolute difference: 1.0 at (0,)"),
    ("", "(no message)"),
    ("x" * 300, "x" * 197 + "…"),
])  # fmt: skip
def test_brief_is_two_lines_at_most(text, brief):
    assert recorder.brief(text) == brief


def test_worker_lays_runs_and_mends(root):
    """One proof after the other in one tree: a wrong one fails, the next sees the reference again."""
    shutil.copy(root / AT / "scale.py", root / "before.py")
    (root / "other.py").write_text((root / "before.py").read_text().replace("number * by", "number + by"))
    jobs = [{"lay": {f"{AT}/scale.py": "other.py"} if wrong else {}, "tests": [f"{TESTS}::test_scaled"],
             "report": f"{root}/{i}.jsonl", "log": f"{root}/{i}.txt", "seconds": 60, "options": ["-x"]}
            for i, wrong in enumerate([True, False])]  # fmt: skip
    nursery.work(str(root), jobs, "spawn")
    assert [events(root / f"{i}.jsonl")[-1]["status"] for i in (0, 1)] == [1, 0]
    assert "1 failed" in (root / "0.txt").read_text() and "1 passed" in (root / "1.txt").read_text()
    assert (root / AT / "scale.py").read_bytes() == (root / "before.py").read_bytes()


def test_nursery_reports_a_worker_that_does_not_come_to_its_end(root):
    """A job without a report: the worker raises, and the nursery's status says so."""
    plan = {"method": "spawn", "roots": [str(root)], "imports": [["json", ["loads"]]], "jobs": [{"lay": {}}]}
    (root / "plan.json").write_text(json.dumps(plan))
    assert nursery.main(root / "plan.json") != 0


def test_witness_notes_a_file_once_and_says_so_if_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(witness, "ROOT", tmp_path)
    (tmp_path / ".witness").mkdir()
    (tmp_path / ".shadow.json").write_text(json.dumps({"aloud": True, "laid": {"a.py": "my/a.py"}}))
    for name in ("a.py", "b.py"):
        path = tmp_path / name
        path.write_text("@exercise\ndef f(): return 1\n@exercise\ndef g(): return 2\n")
        names = {"exercise": witness.exercise}
        exec(compile(path.read_text(), str(path), "exec"), names)
        assert (names["f"](), names["g"]()) == (1, 2)
    notes = [json.loads(path.read_text()) for path in sorted((tmp_path / ".witness").iterdir())]
    assert sorted(note["place"] for note in notes) == ["a.py", "b.py"]
    assert {(note["pid"], note["process"]) for note in notes} == {(os.getpid(), "main process")}
    assert capsys.readouterr().err.count("[thirty] main process runs my/a.py, sha256 ") == 1


def test_witness_names_ranks_and_spawned_processes(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert witness.process() == "rank 3"
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(multiprocessing.current_process(), "name", "SpawnProcess-2")
    assert witness.process() == "SpawnProcess-2"
