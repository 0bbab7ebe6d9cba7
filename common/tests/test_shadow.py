"""The shadow tree: what is in it, whose file every process runs, what of a learner's is laid over ours."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import shadow, stubs
from common.cli import launch
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PLACE = "phase99_toy/project99_toy/toy.py"
RANKS = "phase99_toy.project99_toy.ranks"


@pytest.fixture
def root(tmp_path):
    """A repository with our `common` and two toy projects."""
    root = tmp_path / "root"
    shutil.copytree(ROOT / "common", root / "common", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.copytree(Path(__file__).parent / "toy", root, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.fixture
def my(tmp_path, root):
    """A learner's folder: the technique of project 99, with a difference that shows (sums times ten)."""
    folder = tmp_path / "my" / "project99_toy"
    folder.mkdir(parents=True)
    text = (root / PLACE).read_text(encoding="utf-8")
    (folder / "toy.py").write_text(text.replace("total += number", "total += 10 * number"), encoding="utf-8")
    return folder.parent


def python(target, *args):
    """Run Python with the environment that `launch` makes, in a folder other than the tree."""
    env = launch.environment(target)
    return subprocess.run([sys.executable, *args], cwd=target.parent, env=env, capture_output=True, text=True)


def test_tree_holds_the_sources_and_nothing_else(root):
    """No cache, no hidden file, no model, no run, no corpus; and it is gone in the end."""
    for place in (".git/config", ".env", "my/x.py", "data/cache/x", "data/runs/x", "data/x.txt",
                  "data/good.py", "phase99_toy/__pycache__/x.pyc", "phase99_toy/runs/kept.py",
                  "tests/test_x.py", "thirty"):  # fmt: skip
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text("x")
    with shadow.tree(root) as target:
        found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
        assert {"data/good.py", "tests/test_x.py", "phase99_toy/runs/kept.py", "thirty", PLACE} <= found
        assert not [name for name in found if "__pycache__" in name]
        tops = {name.partition("/")[0] for name in found}
        assert tops == {"common", "data", "phase99_toy", "tests", "pyproject.toml", "thirty", ".shadow.json"}
        assert {name for name in found if name.startswith("data/")} == {"data/good.py"}
        for name in found - {"common/exercise.py", ".shadow.json"}:
            assert (target / name).read_bytes() == (root / name).read_bytes()
    assert not target.exists()


def test_tree_is_a_copy(root):
    """What is written in it changes nothing of ours."""
    with shadow.tree(root) as target:
        (target / PLACE).write_text("changed")
    assert (root / PLACE).read_text(encoding="utf-8").startswith('"""Running sums')


def test_spawned_processes_run_the_learners_file(root, my):
    """Two ranks, and instances of the learner's class pickled on their way back."""
    files = shadow.mine(my, root / "phase99_toy/project99_toy")
    with shadow.tree(root, files, aloud=True) as target:
        done = python(target, "-m", RANKS, "spawn")
        assert done.stdout == "[Total(value=20), Total(value=40)]\n", done.stderr
        notes = [note for note in shadow.notes(target) if note.place == PLACE]
    assert len({note.pid for note in notes}) == 3 and {note.sha256 for note in notes} == {files[0].sha256}
    assert sorted(n.process for n in notes) == ["SpawnProcess-1", "SpawnProcess-2", "main process"]
    assert done.stderr.count(f"runs {my}/project99_toy/toy.py, sha256 {files[0].sha256[:12]}") == 3


def test_every_rank_of_torchrun_runs_the_learners_file(root, my):
    """And says nothing of it in a check, where a test may look at what the ranks print."""
    files = shadow.mine(my, root / "phase99_toy/project99_toy")
    with shadow.tree(root, files) as target:
        done = python(target, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python",
                      sys.executable, "-m", RANKS)  # fmt: skip
        assert done.stdout.count("Total(value=20)") == 2 and "[thirty]" not in done.stderr, done.stderr
        notes = [note for note in shadow.notes(target) if note.place == PLACE]
    assert [note.process for note in sorted(notes, key=lambda n: n.process)] == ["rank 0", "rank 1"]
    assert {note.sha256 for note in notes} == {files[0].sha256}


def test_a_later_project_runs_the_learners_file(root, my):
    said = []
    with shadow.with_mine(my, root, said.append) as target:
        assert python(target, "-m", "phase99_toy.project98_user.user").stdout == "[10, 30, 60]\n"
    assert said == []


def test_the_reference_leaves_notes_but_says_nothing(root):
    """Only the learner's own files are worth a line on the screen."""
    with shadow.tree(root) as target:
        done = python(target, "-m", "phase99_toy.project98_user.user")
        assert (done.stdout, done.stderr) == ("[1, 3, 6]\n", "")
        assert [note.place for note in shadow.notes(target)] == [PLACE]


def test_a_file_from_elsewhere_is_noted_as_such(root):
    """A process that finds its way to our copy says so."""
    with shadow.tree(root) as target:
        code = f"import runpy; runpy.run_path({str(root / PLACE)!r})"
        assert python(target, "-c", code).returncode == 0
        assert [note.place for note in shadow.notes(target)] == [str((root / PLACE).resolve())]


def test_a_file_that_changes_while_it_runs_is_noted_with_both_hashes(root, my):
    files = shadow.mine(my, root / "phase99_toy/project99_toy")
    with shadow.tree(root, files) as target:
        for text in (b"", b"\n# changed\n"):
            with open(target / PLACE, "ab") as file:
                file.write(text)
            python(target, "-m", "phase99_toy.project98_user.user")
        hashes = [note.sha256 for note in shadow.notes(target)]
    assert len(set(hashes)) == 2 and files[0].sha256 in hashes


def test_mine_takes_exercises_and_helpers_and_nothing_that_judges(root, my):
    """A script, a test or a conftest of the learner's would change what is judged, or how."""
    folder = my / "project99_toy"
    for name in ("helper.py", "ranks.py", "conftest.py", "__init__.py", "tests/test_toy.py", "toy.py.1"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x = 1\n")
    files = shadow.mine(my, root / "phase99_toy/project99_toy")
    assert [(f.path.name, f.place, f.exercises, f.left, f.begun) for f in files] == [
        ("helper.py", "phase99_toy/project99_toy/helper.py", (), (), True),
        ("toy.py", PLACE, ("running_sum", "Counter.add"), (), True),
    ]


@pytest.mark.parametrize(("old", "new", "why"), [
    ("total, sums = 0, []", "total sums = 0", "toy.py, line 23: Python cannot read this: "),
    ("sums = 0", "sums = 0\0", "Python cannot read this: source code string cannot contain null"),
    ("def running_sum", "def my_sum", "toy.py: running_sum is gone, and the tests call it; write it again"),
    ("@exercise\ndef", "def", "toy.py, line 20: @exercise above running_sum is gone; put it back"),
])  # fmt: skip
def test_mine_says_in_a_line_what_is_broken(root, my, old, new, why):
    path = my / "project99_toy" / "toy.py"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as error:
        shadow.mine(my, root / "phase99_toy/project99_toy")
    assert why in str(error.value) and "\n" not in str(error.value)


def test_an_unfinished_file_stays_ours_and_says_so(root, my):
    """A stub left in a file is told; the finished file beside it is the learner's."""
    path = my / "project99_toy" / "toy.py"
    shutil.copy(root / "phase99_toy/project99_toy/scale.py", path.parent)
    path.write_bytes(stubs.stub(path.read_bytes(), "x", ["Counter.add"]))
    said = []
    with shadow.with_mine(my, root, said.append) as target:
        assert (target / PLACE).read_bytes() == (root / PLACE).read_bytes()
        assert "scale.py" in (target / ".shadow.json").read_text(encoding="utf-8")
    assert said == [f"{path}: Counter.add still to write; the reference runs in its place"]


def test_mine_without_a_finished_file_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="holds no finished file yet"), shadow.with_mine(tmp_path, root):
        pass


def test_tree_goes_even_when_the_run_raises(root):
    with pytest.raises(RuntimeError), shadow.tree(root) as target:
        raise RuntimeError
    assert not target.parent.exists()
