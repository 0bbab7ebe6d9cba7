"""The training loop of a rank against project 3's; a run that breaks off, goes on, or is killed."""

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

from common.progress import read_history
from common.ranks import spawn
from common.training import train as one_process
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism import _rank, loop, pages, train

ROOT, CPU = Path(__file__).resolve().parents[3], torch.device("cpu")
SMALL = replace(train.PRESETS["smoke"], dropout=0.1, checkpoints=1)


def silent(line):
    """What is said is not looked at."""


def losses(folder):
    return [row["loss"] for row in read_history(folder / "metrics.jsonl").train]


def by_project_3(folder):
    """The curve of common.training's own loop, over the same model and batches, in one process."""
    folder.mkdir()
    model = _rank.whole(replace(SMALL, dropout=0.0))
    size = {"batch_size": SMALL.batch_size, "context": SMALL.context}
    text = pages.text(folder, pages.LEARN, SMALL.steps * SMALL.batch_size * SMALL.context + 1000)
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
    save = loop.Loop.save

    def die(self):
        save(self)
        if self.step == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Loop, "save", die)
        _rank.work(config, folder, CPU, silent)


def test_matches_project_3_s_trainer(tmp_path):
    """Two ranks, each with a part or each with rows of its own: the losses and norms of project 3's loop in
    one process; with dropout those of our own one process. A run that one process began goes on on two."""
    curve, norms = by_project_3(tmp_path / "p3")
    plain = replace(SMALL, dropout=0.0)
    ways = {"parts": plain, "sequence": replace(plain, sequence=True), "rows": replace(plain, parts=1),
            "ring": replace(plain, ring=True), "broken": replace(plain, checkpoints=3),
            "dropout": SMALL}  # fmt: skip
    _rank.work(SMALL, tmp_path / "alone", CPU, silent)
    break_off(ways["broken"], tmp_path / "broken", 4)
    found = spawn(run_as_rank, 2, ways, str(tmp_path), timeout=240.0)[0]
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


@pytest.mark.slow
def test_matches_project_3_s_trainer_on_four_ranks(tmp_path):
    """In two rows of two, tensor and data parallelism at once, and all four with parts of one model, which
    has two key/value heads: the losses and norms of project 3's loop in one process."""
    curve, norms = by_project_3(tmp_path / "p3")
    plain = replace(SMALL, dropout=0.0)
    ways = {"grid": replace(plain, parts=2), "grid, sequence": replace(plain, parts=2, sequence=True),
            "parts": plain}  # fmt: skip
    found = spawn(run_as_rank, 4, ways, str(tmp_path), timeout=240.0)[0]
    for name in ways:
        history = read_history(tmp_path / name / "metrics.jsonl")
        assert history.series("loss")[1] == pytest.approx(curve, abs=2e-5), name
        assert history.series("grad_norm")[1] == pytest.approx(norms, rel=1e-4), name
        assert found[name]["parts"] == (4 if name == "parts" else 2)


@pytest.mark.slow
def test_torchrun_by_hand(home):
    """The lesson's own command, into a folder that is not there yet: no rank may be in it before the first
    has looked."""
    lesson = Path(train.__file__).with_name("README.md").read_text(encoding="utf-8")
    words = re.search(r"^torchrun (--standalone .*) --out \S+$", lesson, flags=re.M)[1].split()
    command = [sys.executable, "-m", "torch.distributed.run", *words, "--out", str(home / "out")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "50.2% of them on each rank" in done.stdout, done.stderr[-3000:]
    assert (home / "out" / "result.json").exists()


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
