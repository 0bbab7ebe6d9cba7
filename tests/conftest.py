"""Two toy projects in a repository of their own, and a learner who writes the exercises of one."""

import json
import shutil
import textwrap
from pathlib import Path

import pytest

from common import stubs
from common.cli import paths
from common.cli.checking import Check

ROOT = Path(__file__).resolve().parents[1]


class Learner:
    """Files for project 99 in `folder`, all of them written at first as in the reference."""

    def __init__(self, root, folder, capsys):
        self.folder, self.capsys = folder, capsys
        folder.mkdir(parents=True)
        for name in ("toy.py", "scale.py"):
            shutil.copy(root / "phase99_toy/project99_toy" / name, folder)

    def write(self, body, before=""):
        """Put another body into running_sum, and something at the top of the file."""
        new = f"def running_sum(numbers):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
        path = self.folder / "toy.py"
        path.write_bytes(before.encode() + stubs.lay(path.read_bytes(), new.encode()))

    def check(self, exercise="", **options):
        """(exit code, what was printed) of `thirty check 99`."""
        self.capsys.readouterr()
        code = Check("99", exercise, **options)()
        return code, self.capsys.readouterr().out

    def passed(self):
        """The exercises that passed, as noted."""
        table = json.loads((self.folder.parent / "progress.json").read_text())
        return sorted(table["project99_toy"]["passed"])


@pytest.fixture
def toys(tmp_path):
    """A repository with our `common` and the toy projects 98 and 99."""
    root, ignored = tmp_path / "root", shutil.ignore_patterns("__pycache__", "tests")
    shutil.copytree(ROOT / "common", root / "common", ignore=ignored)
    shutil.copytree(ROOT / "common/tests/toy", root, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.fixture
def root(toys, tmp_path, monkeypatch):
    """The toys, taken by the command line for its own repository."""
    monkeypatch.setattr(paths, "ROOT", toys)
    monkeypatch.setenv("THIRTY_MY", str(tmp_path / "my"))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return toys


@pytest.fixture
def learner(root, capsys):
    """Somebody who did everything right, so far."""
    return Learner(root, paths.my() / "project99_toy", capsys)
