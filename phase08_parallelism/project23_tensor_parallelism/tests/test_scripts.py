"""The scripts as a user runs them, the planner, the lesson's commands and snippet, and the proofs."""

import json
from pathlib import Path

import pytest

from common.cli.bench import bench as run_bench
from common.errors import UserError
from common.proofs import prove
from common.trial import commands, metrics, refused, run, snippets, unplugged
from phase08_parallelism.project23_tensor_parallelism import (
    bench,
    explore,
    layouts,
    plan,
    regions,
    train,
)
from phase08_parallelism.project23_tensor_parallelism._published import PUBLISHED, predicted
from phase08_parallelism.project23_tensor_parallelism.layouts import MACHINES, Layout, Shape

LESSON = Path(train.__file__).parent / "README.md"


# ---- the planner ----


def test_matches_published_runs():
    """Ten runs of Megatron and three of Llama 3: the share of the peak to 16 % of what was published."""
    assert len(PUBLISHED) == 13 and {run.layout.gpus for run in PUBLISHED} >= {32, 3072, 8192, 16384}
    for run_ in PUBLISHED:
        assert predicted(run_) == pytest.approx(run_.share, rel=0.16), run_.name
        assert abs(run_.shape.n_params / guessed(run_.shape) - 1) < 0.12, run_.name


def guessed(shape):
    """Weights by the sizes: 12 C² a block with a plain feed-forward, more with a gated one, and the table."""
    wide = 12 if shape.n_kv_head == shape.n_head else 2 + 2 * shape.n_kv_head / shape.n_head + 3 * 3.25
    return shape.n_layer * wide * shape.d_model**2 + shape.vocab_size * shape.d_model


def test_state_and_bytes_by_hand():
    """Two blocks of 4 channels on two ranks: numbers that can be checked on paper."""
    shape = Shape(2, 4, 2, 2, n_params=1000, vocab_size=8, context=16, batch=4)
    alone, two = Layout(), Layout(tensor=2)
    assert layouts.state_bytes(shape, alone) == 18_000 and layouts.state_bytes(shape, two) == 9_000
    assert layouts.state_bytes(shape, Layout(data=2)) == 12_000
    assert layouts.sent(shape, alone) == (0, 0, 0, 0)
    tensor, *rest = layouts.sent(shape, two)
    # 4 rows, 16 tokens, 4 channels, 2 bytes; 4 sums a block, 2 blocks; a sum sends 2 (N - 1)/N = 1 of it
    assert tensor == 4 * 16 * 4 * 2 * 8 and rest == [0, 0, 0]
    assert layouts.sent(shape, Layout(data=2))[3] == 1000 * 6 / 2
    piped = layouts.costs(shape, Layout(pipeline=2), MACHINES["H100"])
    assert piped.bubble == pytest.approx(1 / (4 + 1))  # (p - 1)/(m + p - 1)


def test_layouts_use_every_gpu_and_fit():
    shape = Shape.guess(70e9, 8192, 512)
    assert (shape.n_layer, shape.d_model, shape.n_head, shape.n_kv_head) == (80, 8192, 64, 8)
    found = layouts.best(shape, 512, MACHINES["H100"])
    for layout, cost in found:
        assert layout.gpus == 512 and cost.memory <= 0.9 * 80e9 and shape.n_head % layout.tensor == 0
    assert found[0][1].mfu == max(cost.mfu for _, cost in found)
    with pytest.raises(UserError, match="no layout fits"):
        layouts.best(Shape.guess(70e9, 8192, 512), 8, MACHINES["H100"])
    with pytest.raises(UserError, match="another number of GPUs"):
        layouts.best(Shape.guess(70e9, 8192, 512), 509, MACHINES["H100"])


# ---- the scripts ----


def test_smoke_train(home, capfd):
    """./thirty run 23 smoke: torchrun starts two ranks here; the figures are those of both."""
    run(train, "smoke", "--out", home / "out")
    found, said = metrics(home / "out"), capfd.readouterr().out
    assert found["ranks"] == 2 and found["share"] < 0.53 and "torch.distributed.run --standalone" in said
    assert 0 < found["val_loss"] < 6


def test_smoke_plan(home, capsys):
    run(plan, "smoke", "--out", home / "out")
    said = capsys.readouterr().out
    assert "layouts fit" in said and "Llama 3 405B" in said
    assert metrics(home / "out")["furthest_from_published"] < 0.16
    assert (home / "out" / "layouts.png").read_bytes().startswith(b"\x89PNG")
    assert "no layout fits" in refused(capsys, plan, "smoke", "--params", "1e12", "--out", home / "b")


QUICK = ("ring", "memory", "layouts", "mistakes", "copies", "bias")


def test_smoke_explore(home):
    """Everything that needs no processes; the two others are in the slow test."""
    run(explore, "smoke", "--out", home / "out", "--parts", *QUICK)
    found = metrics(home / "out")
    assert found["ring: steps"] == 6 and found["ring: complete"] == 16
    assert found["bias: added once, 4"] == pytest.approx(0, abs=1e-3)
    assert found["bias: added by each rank, 4"] == pytest.approx(3, abs=1e-3)
    assert found["mistakes: nothing left out, apart"] < 1e-6
    assert found["mistakes: copies of heads not summed, apart"] > 1e-4
    assert found["mistakes: norms not summed, sequence, apart"] > 1e-4
    for name in ("ring.png", "memory.png", "mistakes.png", "layouts.png"):
        assert (home / "out" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_smoke_explore_with_processes(home):
    run(explore, "smoke", "--out", home / "out", "--parts", "messages", "dropout")
    found = metrics(home / "out")
    assert found["dropout: one seed"] < 1e-5 < 1e-2 < found["dropout: a seed for each rank"]
    star, ring = (found[f"messages: {name}, MB of the busiest"] for name in ("by a star", "round a ring"))
    assert star == pytest.approx(2 * ring, rel=0.01)  # N - 1 = 3 tensors against 2 (N - 1)/N = 1.5


@pytest.mark.slow
def test_smoke_bench(home):
    """Every claim is measured; what must hold does."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {c["id"]: c for c in json.loads(next(home.glob("*.json")).read_text())["claims"]}
    assert {"cap", "memory", "equal", "bytes", "held", "ring", "speed", "dtensor", "threads"} <= claims.keys()
    for name in ("cap", "equal", "bytes", "held"):
        assert claims[name]["verdict"] == "met", claims[name]


def test_is_on_in_the_script(home):
    """A crossing that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(regions.Copy.backward):
        run(train, "smoke", "--ranks", "1")


class TestBadInput:
    @pytest.mark.parametrize(("words", "says"), [
        (("--ranks", "3", "--parts", "2"), "rows of 2"), (("--steps", "0"), "at least 1"),
        (("--ranks", "1", "--n_kv_head", "3"), "multiple of n_kv_head"), (("--patience", "0"), "above 0"),
    ])  # fmt: skip
    def test_train(self, home, capsys, words, says):
        assert says in refused(capsys, train, "smoke", *words)

    def test_explore(self, home, capsys):
        assert "no part is called" in refused(capsys, explore, "smoke", "--parts", "rings")


def test_smoke_lesson(home):
    """Every command is understood; the snippet runs."""
    assert len(commands(LESSON)) >= 6
    snippets(LESSON)


def test_wrong_solutions_are_caught():
    prove(__file__)
