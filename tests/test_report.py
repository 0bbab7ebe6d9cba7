"""READMEs and results: each figure a README shows comes from a file, and the real ones are up to date."""
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from common.cli import report, tables
from common.cli.cards import cards
from common.cli.report import Report, grid, readmes
from common.errors import UserError
from common.results import Claim, Figure, Result, dumps

ROOT = Path(__file__).parents[1]

CARD = {"number": 1, "title": "Toy | one", "week": 1, "tier": "warm-up", "insight": "Two is more than one.",
        "builds_on": [], "extras": [], "claim": "The card's claim", "minutes": {"smoke": 0.1, "cpu": 1},
        "seam": "none"}
SWEEP = {"over": "rows", "break_even": None, "rows": [{"at": 8, "ratio": 1.9, "interval": None},
                                                      {"at": 2048, "ratio": 2.04, "interval": [2, 2.1]}]}
SPEED = Claim(id="speed", claim="Once is faster than twice", unit="s", better="lower", headline=True,
              goal={"op": "<=", "value": 0.67}, baseline=Figure("twice", 0.04, cv=0.2, unsteady=True),
              ours=Figure("once", 0.0201, cv=0.01, peak_memory=2_500_000, counts={"FLOPs": 33554432}),
              ratio=0.5034, interval=(0.49, 0.517), bound=0.5, prediction=0.5, verdict="met",
              why="Half the work.", settings={"rows": 64, "sweep": SWEEP})
ABSENT = Claim(id="rival", claim="As fast as nanoGPT", unit="s", better="lower", ours=None,
               goal={"op": "<=", "value": 1.0}, why="not run: nanoGPT is not in $THIRTY_RIVALS")
RESULT = Result(device="cpu", machine={"cpu": "Xeon", "gpu": None, "cores": 2, "threads": 2}, commit="abc",
                versions={"python": "3.11", "torch": "2.13.0"}, date="2026-01-01", mode="full",
                rivals={"nanoGPT": "not run"}, claims=(SPEED, ABSENT))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository of two projects: one built, with a README; one that is only a card."""
    for number, name in ((1, "toy"), (2, "later")):
        folder = tmp_path / "phase01_first_steps" / f"project{number:02}_{name}"
        (folder / "results").mkdir(parents=True)
        card = CARD if number == 1 else {**CARD, "number": 2, "title": "Later"}
        (folder / "project.json").write_text(json.dumps(card))
    toy = tmp_path / "phase01_first_steps" / "project01_toy"
    (toy / "train.py").write_text('if __name__ == "__main__": pass')
    (toy / "README.md").write_text("# Toy\n\n<!-- results:begin -->\n<!-- results:end -->\n\nEnd.\n")
    (tmp_path / "README.md").write_text(
        "<!-- map:begin -->\n<!-- map:end -->\n\n<!-- ledger:begin -->\nold\n<!-- ledger:end -->\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    return tmp_path


def write(root, result, name=None):
    path = root / "phase01_first_steps/project01_toy/results" / f"{name or result.device}.json"
    path.write_text(dumps(asdict(result)), encoding="utf-8")
    return path


def lesson(root):
    return (root / "phase01_first_steps/project01_toy/README.md").read_text()


def test_readmes_are_up_to_date():
    """The real ones: `./thirty report` writes them."""
    stale = [path for path, make in readmes(ROOT) if make() != path.read_text(encoding="utf-8")]
    assert not stale, "run ./thirty report"


def test_before_anything_is_measured(root):
    assert Report()() == 0
    front = (root / "README.md").read_text()
    assert "**Phase 1: first steps**" in front and "Later (not built yet)" in front
    assert "| 1 | [Toy \\| one](phase01_first_steps/project01_toy/README.md) | The card's claim | " \
           "not measured | not measured | built |" in front
    assert "| 2 | Later | The card's claim | not measured | not measured | not built yet |" in front
    assert "On a CPU: not measured" in lesson(root) and "On a GPU: not measured" in lesson(root)
    assert lesson(root).startswith("# Toy\n") and lesson(root).endswith("\n\nEnd.\n"), "the rest stays"


def test_what_was_measured_is_shown(root):
    write(root, RESULT)
    slower = replace(SPEED, ratio=0.9, interval=(0.8, 0.99), verdict="not met")
    write(root, replace(RESULT, device="h200", claims=(slower,)))
    assert Report()() == 0
    front, text = (root / "README.md").read_text(), lesson(root)
    assert "| Once is faster than twice | 0.503× [0.49, 0.517], goal ≤ 0.67×: met | " \
           "h200: 0.9× [0.8, 0.99], goal ≤ 0.67×: not met | measured |" in front
    assert "| Once is faster than twice | twice: 40 ms, unsteady | once: 20.1 ms | 0.503× [0.49, 0.517] | " \
           "≤ 0.67× | 0.5× | 0.5× | met |" in text
    assert "Half the work.; twice: CV 20.0%; " in text
    assert "once: FLOPs 33,554,432, peak memory 2.5 MB, CV 1.0%; rows 64" in text
    assert "| As fast as nanoGPT |  |  | not run | ≤ 1 |  |  | not run |" in text
    assert "| rows | 8 | 2,048 |" in text and "| speed-up | 1.9× | 2.04× |" in text
    assert "breaks even at no size tried" in text
    assert "Measured on Xeon, 2 cores, 2 threads, Python 3.11, torch 2.13.0, " \
           "2026-01-01, commit abc, nanoGPT not run." in text
    assert text.index("**cpu**") < text.index("**h200**") and "not measured" not in text


def test_check_names_each_file_and_changes_none(root, capsys):
    assert Report()() == 0 and Report(check=True)() == 0
    assert "up to date" in capsys.readouterr().out
    write(root, RESULT)
    before = lesson(root)
    assert Report(check=True)() == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("README.md is out of date")
    assert lines[1].startswith("phase01_first_steps/project01_toy/README.md is out of date")
    assert lesson(root) == before
    assert Report()() == 0 and Report(check=True)() == 0, "and once written, it is up to date"


BEGIN, END = "<!-- results:begin -->\n", "<!-- results:end -->\n"


@pytest.mark.parametrize("text", ["nothing", BEGIN, END, END + BEGIN, (BEGIN + END) * 2])
def test_marks_that_are_not_there_once_are_named(root, capsys, text):
    (root / "phase01_first_steps/project01_toy/README.md").write_text(text)
    assert Report()() == 1
    said = capsys.readouterr().err
    assert "project01_toy/README.md cannot be written: the lines <!-- results:begin -->" in said
    assert lesson(root) == text


def test_only_full_results_of_that_device_are_shown(root, capsys):
    for result, name in ((replace(RESULT, mode="quick"), "cpu"), (RESULT, "h100")):
        path = write(root, result, name)
        assert Report(check=True)() == 1
        assert "measure again with ./thirty bench 1 --full" in capsys.readouterr().err
        path.unlink()


def test_a_verdict_typed_by_hand_is_caught(root, capsys):
    path = write(root, RESULT)
    path.write_text(path.read_text().replace('"value": 0.67', '"value": 0.4'))
    assert Report(check=True)() == 1
    assert "its verdict is 'met', but the figures say 'not met'" in capsys.readouterr().err


def test_profile_and_expected_bands(root):
    folder = root / "phase01_first_steps/project01_toy"
    (folder / "README.md").write_text(lesson(root) + "<!-- expected:begin -->\n<!-- expected:end -->\n")
    assert Report()() == 0 and "No preset has an expected band yet." in lesson(root)
    (folder / "results/profile_cpu.json").write_text(json.dumps({
        "device": "cpu", "seconds": 0.0123, "steps": 3, "memory": [[0, 5], [1, 4096]],
        "operations": [{"name": "aten::mm", "calls": 3, "ms": 7.891, "share": 0.64}]}))
    (folder / "results/expected.json").write_text(json.dumps({"cpu": {"val_loss": {
        "mean": 1.9, "sd": 0.001, "low": 1.881, "high": 1.919, "seeds": [0, 1, 2], "machine": "Xeon"}}}))
    assert Report()() == 0
    assert "cpu: 3 calls took 12.3 ms and held at most 4.096 kB of new tensors." in lesson(root)
    assert "| `aten::mm` | 3 | 7.89 | 64% |" in lesson(root)
    assert "| cpu | val loss | 1.9 | 0.001 | 1.881 | 1.919 | 0, 1, 2 | Xeon |" in lesson(root)


def test_a_missing_readme_is_no_fault(root):
    (root / "README.md").unlink()
    assert [path.name for path, _ in readmes(root)] == ["README.md"]


def test_a_card_that_is_none_is_one_line(root):
    (root / "phase01_first_steps/project02_later/project.json").write_text("{")
    with pytest.raises(UserError, match="not a project card"):
        cards(root)


@pytest.mark.parametrize("value, unit, text", [
    (0.0292, "s", "29.2 ms"), (3.4e-6, "s", "3.4 µs"), (90.0, "s", "90 s"), (1.5e9, "bytes", "1.5 GB"),
    (12, "bytes", "12 bytes"), (25431.2, "tok/s", "25,431 tok/s"), (1.88571, "nats", "1.886 nats"),
    (0.0, "s", "0 s")])
def test_quantity(value, unit, text):
    assert tables.quantity(value, unit) == text


@pytest.mark.parametrize("ratio, interval, undecided", [
    (1.005, None, True), (1.02, None, False), (1.02, (0.99, 1.05), True), (1.005, (1.001, 1.009), False),
    (1.0, None, False)])
def test_no_difference_seen(ratio, interval, undecided):
    """Under one per cent only an interval that leaves out 1 shows a difference; exactly 1 is a count."""
    claim = replace(SPEED, ratio=ratio, interval=interval, goal={"op": ">", "value": 0})
    assert tables.undecided(claim) is undecided
    assert ("no difference seen" in tables.outcome(claim)) is undecided


def test_grid_escapes_bars_and_line_ends():
    assert grid(["a", "b"], [["x|y", "1\n2"]]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 2 |"
