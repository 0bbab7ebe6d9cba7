"""The scripts as a user runs them, the planner, the lesson's commands and snippet, and the proofs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.cli.bench import bench as run_bench
from common.errors import UserError
from common.progress import read_history
from common.proofs import prove
from common.ranks import spawn
from common.training import train as one_process
from common.trial import commands, metrics, refused, run, snippets, unplugged
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism import (
    _loop,
    _rank,
    bench,
    explore,
    layouts,
    plan,
    regions,
    train,
)
from phase08_parallelism.project23_tensor_parallelism._published import PUBLISHED, predicted
from phase08_parallelism.project23_tensor_parallelism.layouts import MACHINES, Layout, Shape

LESSON, ROOT = Path(train.__file__).parent / "README.md", Path(__file__).resolve().parents[3]
CPU, SMALL = torch.device("cpu"), replace(train.PRESETS["smoke"], dropout=0.1)


def silent(line):
    """What is said is not looked at."""


# ---- the loop ----


def losses(folder):
    return [row["loss"] for row in read_history(folder / "metrics.jsonl").train]


def by_project_3(folder):
    """The curve of common.training's own loop, over the same model and batches, in one process."""
    folder.mkdir()
    model = _rank.whole(replace(SMALL, dropout=0.0))
    size = {"batch_size": SMALL.batch_size, "context": SMALL.context}
    text = _rank.text(folder, _rank.LEARN, SMALL.steps * SMALL.batch_size * SMALL.context + 1000)
    history = one_process(CausalLM(model), lambda i: text.batch(SMALL.seed, i, **size), SMALL.train_config,
                          folder=folder / "run", say=silent)  # fmt: skip
    return history.series("loss")[1], history.series("grad_norm")[1]


def run_as_rank(rank, world, ways, folder):
    """What torchrun starts, within a group that is there already; figures by name, from the first rank."""
    return {name: _rank.work(config, Path(folder) / name, CPU, silent) for name, config in ways.items()}


class Killed(Exception):
    """In place of SIGKILL, right behind a checkpoint."""


def break_off(config, folder, step):
    """One process, which ends without a word behind the checkpoint of this update."""
    save = _loop.Loop.save

    def die(self):
        save(self)
        if self.step == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(_loop.Loop, "save", die)
        _rank.work(config, folder, CPU, silent)


def test_matches_project_3_s_trainer(tmp_path):
    """Two ranks, each with a part or each with rows of its own: the losses and norms of project 3's loop in
    one process; with dropout those of our own one process. A run that one process began goes on on two."""
    curve, norms = by_project_3(tmp_path / "p3")
    plain = replace(SMALL, dropout=0.0, checkpoints=3)
    ways = {"parts": plain, "sequence": replace(plain, sequence=True), "rows": replace(plain, parts=1),
            "ring": replace(plain, ring=True), "broken": plain, "dropout": SMALL}  # fmt: skip
    _rank.work(SMALL, tmp_path / "alone", CPU, silent)
    break_off(plain, tmp_path / "broken", 4)
    found = spawn(run_as_rank, 2, ways, str(tmp_path))[0]
    dropped = losses(tmp_path / "alone")
    assert max(abs(a - b) for a, b in zip(dropped, curve, strict=True)) > 1e-4, "dropout does nothing"
    for name in ways:
        history = read_history(tmp_path / name / "metrics.jsonl")
        steps, values = history.series("loss")
        assert steps == [1, 2, 3, 4, 5, 6], f"{name}: an update is lost, or made twice"
        assert values == pytest.approx(dropped if name == "dropout" else curve, abs=2e-5), name
        if name != "dropout":
            assert history.series("grad_norm")[1] == pytest.approx(norms, rel=1e-4), name
        assert found[name]["share"] == pytest.approx(1.0 if name == "rows" else 0.5, abs=0.02)
        assert history.train[-1]["tokens"] == SMALL.steps * SMALL.batch_size * SMALL.context
    assert [path.name for path in (tmp_path / "broken").glob("step-*")] == ["step-6"]


def rank_of(pid, folder):
    """The RANK of a process that works in this folder; None: it does not."""
    try:
        if str(folder) not in Path(f"/proc/{pid}/cmdline").read_text():
            return None
        found = re.search(r"(?:^|\0)RANK=(\d+)", Path(f"/proc/{pid}/environ").read_text())
        return int(found[1]) if found else None
    except (OSError, ValueError):
        return None


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for its ranks under /proc")
def test_a_killed_rank_is_started_again(home):
    """SIGKILL in the middle: torchrun starts both again, and the curve is that of the unbroken run."""
    config = ["smoke", "--steps", "60", "--checkpoints", "30", "--ranks", "2", "--out"]
    command = [sys.executable, "-m", train.__name__, *config]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(home / "whole")], env=env, check=True, capture_output=True, timeout=200)
    broken = subprocess.Popen([*command, str(home / "broken")], env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)  # fmt: skip
    folder, end = home / "broken" / "ranks", time.monotonic() + 120
    while not list(folder.glob("step-*")) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        if rank_of(pid, folder) == 1:
            os.kill(pid, signal.SIGKILL)
    said = broken.communicate(timeout=240)[0]
    assert broken.returncode == 0 and "going on from step" in said, said
    found, want = (read_history(home / name / "ranks" / "metrics.jsonl") for name in ("broken", "whole"))
    assert [row["step"] for row in found.train] == list(range(1, 61))
    assert found.series("loss")[1] == pytest.approx(want.series("loss")[1], abs=1e-5)


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


@pytest.mark.skipif(not LESSON.exists(), reason="the lesson is written last")
def test_smoke_lesson(home):
    """Every command is understood; the snippet runs."""
    assert len(commands(LESSON)) >= 6
    snippets(LESSON)


@pytest.mark.skipif(not LESSON.exists(), reason="the lesson is written last, and hints are in it")
def test_wrong_solutions_are_caught():
    prove(__file__)
