"""`assign` hands out stubs, lessons and tests, and not a line of a solution."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from common import lesson, stubs
from common.cli import assign, cards
from common.cli.assign import Assign
from common.cli.checking import Check
from common.cli.learn import text_of
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TOY = "phase99_toy/project99_toy"
WITH_EXERCISES = [card for card in cards.cards() if card.built and lesson.exercises(card.folder)]


@pytest.fixture
def folder(root, tmp_path):
    """What is handed out of the toy project."""
    (root / TOY / "README.md").open("a").write("\n![sums](results/sums.png)\n")
    (root / TOY / "results").mkdir()
    (root / TOY / "results/sums.png").write_bytes(b"a picture")
    assert Assign("99", tmp_path / "out", due="2026-11-30T23:59+01:00")() == 0
    return tmp_path / "out"


def test_what_is_in_the_folder(folder, root):
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        "README.md", "assignment.json", "my/project99_toy/scale.py", "my/project99_toy/toy.py",
        f"{TOY}/README.md", f"{TOY}/results/sums.png", f"{TOY}/tests/test_toy.py",
    ]  # fmt: skip
    terms = json.loads((folder / "assignment.json").read_text())
    assert terms["projects"] == [99] and terms["due"] == "2026-11-30T23:59+01:00"
    assert "Due 2026-11-30T23:59+01:00" in (folder / "README.md").read_text()


def test_every_exercise_is_empty(folder):
    for path in (folder / "my").rglob("*.py"):
        assert all(function.empty for function in stubs.marked(path.read_bytes()).values())
        ast.parse(path.read_bytes())


def test_the_folder_works_beside_the_course(folder, root, monkeypatch, capsys):
    """As its README says: check on the stubs, and on the solution written into them."""
    monkeypatch.setenv("THIRTY_MY", str(folder / "my"))
    assert Check("99")() == 1
    said = capsys.readouterr().out
    assert f"running_sum is still a stub: write it in {folder}/my/project99_toy/toy.py" in said
    for name in ("toy.py", "scale.py"):
        shutil.copy(root / TOY / name, folder / "my/project99_toy")
    assert Check("99")() == 0


def test_a_solution_in_a_lesson_is_seen(root, tmp_path):
    """In other words, or rather in the same: without its layout and comments."""
    source = (root / TOY / "toy.py").read_bytes()
    text = "".join(text_of(source, "running_sum")).replace("    ", "  ").replace("only one", "just one")
    with (root / TOY / "README.md").open("a") as readme:
        readme.write(f"\n```python\n{text}\n```\n")
    with pytest.raises(UserError, match=r"README.md holds the solution of running_sum; nothing was written"):
        Assign("99", tmp_path / "out")()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("card", WITH_EXERCISES, ids=lambda card: card.name)
def test_no_project_hands_out_its_solution(card, tmp_path):
    """The bodies of all its exercises, searched for in all that a student gets of it."""
    assign.hand_out(card, tmp_path)
    assert assign.leaks(tmp_path, [card]) == []
    found = {name for path in tmp_path.glob("my/*/*.py") for name in stubs.marked(path.read_bytes())}
    assert found == set(lesson.exercises(card.folder))
    assert not list(tmp_path.rglob("wrong_*"))


def test_projects_by_number_and_by_phase():
    assert assign.numbers(assign.projects("10-13")) == [10, 11, 12, 13]
    assert assign.numbers(assign.projects("8, 10-11")) == [8, 10, 11]
    assert assign.numbers(assign.projects("phase4")) == [10, 11, 12, 13]
    wrong = {"13-10": "the first project comes first", "98-99": "no project 98", "pruningg": "mean pruning"}
    for text, words in wrong.items():
        with pytest.raises(UserError, match=words):
            assign.projects(text)


def test_what_cannot_be_handed_out_is_refused(root, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    for options, words in (({"out": tmp_path / "full"}, "is there already"), ({"due": "soon"}, "is no date"),
                           ({"late_per_day": 2.0}, "from 0 to 1")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            Assign("99", **{"out": tmp_path / "out", **options})()
    with pytest.raises(UserError, match="project 98 has no exercises: leave it out"):
        Assign("98-99", tmp_path / "out")()
    assert not (tmp_path / "out").exists()
