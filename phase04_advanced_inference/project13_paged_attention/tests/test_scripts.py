"""The scripts and the lesson: every preset in small, every command, the snippet, the proofs."""

import json
from pathlib import Path

import pytest

from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets
from phase04_advanced_inference.project13_paged_attention import bench, explore, generate, paged_attention

LESSON = Path(paged_attention.__file__).parent / "README.md"


@pytest.fixture
def home(home):
    """Its place for runs with a tiny model in it."""
    model_folder(home / "m", max_seq_len=128)
    return home


def test_smoke_generate(home, capsys):
    """Both ways' texts, whether they agree, speed, how many at a time, a picture."""
    run(generate, "smoke", "--model", "m", "--out", "here")
    said = capsys.readouterr().out
    for words in ("--- slots,", "--- pages,", "8 of 8 texts agree", "tokens/s", "texts at a time", "MB"):
        assert words in said
    found = metrics(home / "here")
    assert found["agree"] == 1 and found["texts, pages"] > found["texts, slots"]
    assert (home / "here" / "pages.png").read_bytes().startswith(b"\x89PNG")


def test_is_on_in_the_script(home, monkeypatch):
    """Attention in place that raises makes the script fail: it really uses what the learner wrote."""

    def broken(q, k, v, view):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(paged_attention, "paged", broken)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        run(generate, "smoke", "--model", "m")


def test_smoke_explore(home):
    """Every experiment in small; what must hold in each holds, and the breaks break."""
    run(explore, "smoke", "--out", "here")
    found = metrics(home / "here")
    assert found["film: left over"] == 0 and found["film: steps"] > 20
    assert found["waste: empty, paged"] < found["waste: empty, reserved"]
    assert found["waste: times as many"] > 1 and found["waste: same"] >= 0.9
    assert found["sizes: empty, 16"] == pytest.approx(found["sizes: formula, 16"], rel=0.3)
    assert found["sharing: 100, blocks of 8"] == pytest.approx(0.198)
    assert found["fork: copies"] == 3 and found["fork: shared"] == 0.75
    assert found["torn: copied"] == 1 > found["torn: not copied"]
    assert found["uncounted: counted"] == 1 > found["uncounted: not counted"]
    assert found["leak: share, then take"] == 0 < found["leak: take, then share"]
    assert found["twice: checked"] == 0 < found["twice: not checked"]
    assert found["moved: all told"] == 1 > found["moved: one told"]
    assert found["mixed: all that comes before"] == 1 > found["mixed: its own tokens"]
    for name in ("film", "waste", "sizes", "sharing", "fork"):
        assert (home / "here" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    assert (home / "here" / "film.gif").read_bytes().startswith(b"GIF")


def test_smoke_bench(home):
    """Every claim is made, the sides agree, and what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert set(claims) == {"waste", "formula", "concurrent", "equal", "sharing", "fork", "decode", "gather",
                           "ragged", "engine", "manager", "gpu-contiguous", "gpu-gather"}  # fmt: skip
    assert claims["sharing"]["verdict"] == claims["fork"]["verdict"] == "met"
    assert claims["gpu-gather"]["verdict"] is None


def test_bad_input(home, capsys):
    assert "no part is called gantt" in refused(capsys, explore, "smoke", "--parts", "gantt")
    assert "at least 1" in refused(capsys, explore, "smoke", "--size", 0)
    assert "too short" in refused(capsys, explore, "smoke", "--context", 16)
    assert "at least 1" in refused(capsys, generate, "smoke", "--slots", 0)
    assert "temperature" in refused(capsys, generate, "smoke", "--temperature", "nan")


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 13 …` and `explore 13 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 4


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    pytest.importorskip("transformers")
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
