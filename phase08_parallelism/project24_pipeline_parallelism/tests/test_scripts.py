"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
from pathlib import Path

import pytest

from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, refused, run, snippets, unplugged
from phase08_parallelism.project24_pipeline_parallelism import bench, explore, pipeline, train

LESSON = Path(train.__file__).parent / "README.md"
PICTURES = {"schedules": "schedules", "scale": "scale", "memory": "memory", "stash": "stash"}


def is_a_picture(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_smoke_train(home, capfd):
    """./thirty run 24 smoke: torchrun starts two ranks here; the figures are those of both."""
    run(train, "smoke", "--out", home / "out")
    found, said = metrics(home / "out"), capfd.readouterr().out
    assert found["ranks"] == 2 and found["stages"] == 2 and found["share"] < 0.6
    assert "torch.distributed.run --standalone" in said and 0 < found["val_loss"] < 6
    assert found["bubble_by_formula"] == pytest.approx(1 / 5) and 0 < found["bubble"] < 1


def test_smoke_train_in_one_process(home):
    """Two stages on one rank, without torchrun: no bubble by the formula, all weights."""
    run(train, "smoke", "--ranks", "1", "--rounds", "2", "--schedule", "interleaved", "--out", home / "out")
    found = metrics(home / "out")
    assert found["stages"] == 2 and found["share"] == 1 and found["bubble_by_formula"] == 0


def test_smoke_explore(home):
    """Everything that needs no processes; the others are in the slow test."""
    run(explore, "smoke", "--out", home / "out", "--parts", *PICTURES, "copies")
    found = metrics(home / "out")
    assert found["schedules: 1f1b, bubble"] == pytest.approx(3 / 11)
    assert found["schedules: zb-h1, bubble"] == pytest.approx(1 / 9)
    assert found["schedules: gpipe, held"] == 8 and found["schedules: 1f1b, held"] == 4
    assert found["memory: GPipe, rank 0"] > 1.5 * found["memory: 1F1B, rank 0"]
    assert found["memory: 1F1B, rank 0"] > 1.5 * found["memory: 1F1B, rank 3"] > 0
    assert found["stash: stage 3, error"] == 0 < 1e-3 < found["stash: stage 0, error"]
    assert found["copies: summed, apart"] == 0 < 1e-4 < found["copies: not summed, apart"]
    assert all(is_a_picture(home / "out" / f"{name}.png") for name in PICTURES)


@pytest.mark.slow
def test_smoke_explore_with_processes(home):
    run(explore, "smoke", "--out", home / "out", "--parts", "measured", "micro", "unbalanced")
    found = metrics(home / "out")
    assert found["measured: 1f1b, formula"] == pytest.approx(1 / 5) and found["measured: 1f1b, seconds"] > 0
    assert found["unbalanced: four stages alike, bubble"] == pytest.approx(3 / 11)
    assert all(is_a_picture(home / "out" / f"{name}.png") for name in ("measured", "micro", "unbalanced"))


@pytest.mark.slow
def test_smoke_bench(home):
    """Every claim is measured; what must hold does."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {c["id"]: c for c in json.loads(next(home.glob("*.json")).read_text())["claims"]}
    assert {"bubble", "zb", "zb-below", "speed", "torch-1f1b", "torch-zb", "simulator"} <= claims.keys()
    for name in ("simulator", "equal", "held"):
        assert claims[name]["verdict"] == "met", claims[name]


def test_is_on_in_the_script(home):
    """An action that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(pipeline.Pipeline.backward):
        run(train, "smoke", "--ranks", "1")


@pytest.mark.parametrize(("words", "says"), [
    (("--ranks", "3", "--parts", "2"), "no multiple of parts x rows"), (("--steps", "0"), "at least 1"),
    (("--ranks", "1", "--micro", "3"), "cannot be cut into 3"), (("--patience", "0"), "above 0"),
    (("--ranks", "1", "--rounds", "2"), "one stage on each rank"),
    (("--ranks", "1", "--rounds", "5", "--schedule", "interleaved"), "cannot be shared out over 5 stages"),
])  # fmt: skip
def test_bad_input(home, capsys, words, says):
    assert says in refused(capsys, train, "smoke", *words)


def test_a_part_that_there_is_not(home, capsys):
    assert "no part is called" in refused(capsys, explore, "smoke", "--parts", "schedule")


def test_smoke_lesson():
    """Every command is understood; the snippet runs."""
    assert len(commands(LESSON)) >= 11
    snippets(LESSON)


def test_wrong_solutions_are_caught():
    prove(__file__)
