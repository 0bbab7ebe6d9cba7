"""`thirty new`: the folder it writes works, and keeps the rules of the house."""
import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import scaffold
from common.cli.cards import cards, read
from common.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path):
    """A root with the thirty cards and the import contract."""
    for card in cards():
        folder = tmp_path / card.phase / card.name
        folder.mkdir(parents=True)
        shutil.copy2(card.folder / "project.json", folder)
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_writes_a_project_and_its_floor(root):
    number = len(cards()) + 1
    folder = scaffold.create(root, number, "my_technique", 4)
    assert folder == root / "phase04_advanced_inference" / f"project{number}_my_technique"
    card = read(folder / "project.json")
    assert (card.number, card.technique, card.week, card.built) == (number, "my_technique", 4, True)
    assert card.scripts == ["generate", "explore", "bench"]
    for path in folder.rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"))
        assert "$" not in path.read_text(encoding="utf-8")
    before = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    after = (root / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    added = f'    "phase04_advanced_inference.project{number}_my_technique",'
    assert [line for line in after if line not in before] == [added]
    assert after[after.index(added) - 1] == "layers = ["


@pytest.mark.parametrize("number, name, phase, says", [
    (30, "x_y", 10, "the next project is"), (None, "X", 10, "cannot name it"),
    (None, "my-technique", 10, "cannot name it"), (None, "aaaaaaaaaaaaaaaaaaaaaaaaa", 10, "at most 24"),
    (None, "kv_cache", 10, "there is a project kv_cache already"), (None, "x_y", 12, "no phase 12"),
])
def test_refuses_what_cannot_be(root, number, name, phase, says):
    with pytest.raises(UserError, match=says):
        scaffold.create(root, number or len(cards()) + 1, name, phase)
    assert len(cards(root)) == len(cards())


@pytest.mark.slow
def test_keeps_the_rules_of_the_house(tmp_path):
    """The whole repository with one project more: that project's tests, and the house's rules about it."""
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    number = str(len(cards()) + 1)

    def thirty(*args):
        return subprocess.run([sys.executable, *args], cwd=tmp_path, capture_output=True, encoding="utf-8",
                              env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONUTF8": "1"})
    house = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_house.py", "-k", "my_technique"]
    for args in (["common/cli", "new", number, "my_technique"], ["common/cli", "test", number],
                 ["common/cli", "report", "--check"], house,
                 ["-m", "ruff", "check", f"phase10_deployment/project{number}_my_technique"]):
        done = thirty(*args)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
