"""The experiments and the bench, at their smallest."""

from common.trial import metrics, refused, run
from phase01_foundation.project03_pretrain import _compare, _knowledge, bench, explore


def test_smoke_of_explore(home, capsys, monkeypatch):
    """Every experiment runs, says what it found, and leaves its picture; smaller still than the preset."""
    monkeypatch.setattr(_compare, "WIDTHS", (8, 16, 24, 32))
    monkeypatch.setattr(_compare, "PREDICTED", 40)
    monkeypatch.setattr(_knowledge.Town.knows, "__defaults__", (4,))  # questions
    run(explore, "smoke", "--knowledge", 2048)
    said, folder = capsys.readouterr().out, home / "runs" / "project03_pretrain" / "explore-smoke"
    pictures = {"activations", "objectives", "optimizers", "scaling", "texts", "sources", "knowledge"}
    assert {path.stem for path in folder.glob("*.png")} >= pictures
    for name in explore.EXPERIMENTS:
        assert f"{name}: " in said, f"{name} said nothing"
    found = metrics(folder)
    assert found["sources: real, judged on real"] > 0 and found["scaling: alpha"] > 0


def test_explore_refuses_what_it_does_not_know(home, capsys):
    """A part that is not there is named, and those that are."""
    line = refused(capsys, explore, "smoke", "--parts", "magic")
    assert "magic" in line and "scaling" in line


def test_smoke_of_bench(home, capsys, monkeypatch):
    """Without the rival its rows say so; the others hold a figure, and the bench ends well."""
    monkeypatch.delenv("THIRTY_RIVALS", raising=False)
    bench.bench(bench.main, bench.profiled, ["smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "not in $THIRTY_RIVALS" in said
    for claim in ("Our AdamW takes no longer", "Recomputing the blocks"):
        assert claim in said
