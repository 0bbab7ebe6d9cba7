"""The training loop of a rank against project 3's, and a run that breaks off and goes on on more ranks.

That torchrun starts killed ranks again is tested in project 23, whose loop this is."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.progress import read_history
from common.ranks import spawn
from common.training import train as one_process
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism.pages import HELD, JUDGED, LEARN, text
from phase08_parallelism.project24_pipeline_parallelism import _loop, _rank, train

CPU = torch.device("cpu")
SMALL = train.PRESETS["smoke"]


def silent(line):
    """What is said is not looked at."""


def by_project_3(folder, config, ways):
    """Losses and norms of common.training's own loop, over the same model and batches, in one process; its
    text is laid into the folders of `ways`, as it is the same."""
    (folder / "p3").mkdir()
    size, tokens = (
        {"batch_size": config.batch_size, "context": config.context},
        config.batch_size * config.context,
    )
    source = text(folder / "p3", LEARN, config.steps * tokens + 1000)
    text(folder / "p3", HELD, (JUDGED + 1) * tokens)
    for name in ways:
        (folder / name).mkdir()
        for path in (folder / "p3").iterdir():
            shutil.copy(path, folder / name)
    history = one_process(CausalLM(_rank.whole(config)), lambda i: source.batch(config.seed, i, **size),
                          config.train_config, folder=folder / "p3" / "run", say=silent)  # fmt: skip
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


def agree(folder, ways, found, truth, held):
    """Each way's losses, norms and tokens are project 3's; `held`: the largest share of the weights."""
    curve, norms = truth
    for name in ways:
        history = read_history(folder / name / "metrics.jsonl")
        steps, values = history.series("loss")
        assert steps == [1, 2, 3, 4, 5, 6], f"{name}: an update is lost, or made twice"
        assert values == pytest.approx(curve, abs=2e-5), name
        assert history.series("grad_norm")[1] == pytest.approx(norms, rel=1e-4), name
        assert found[name]["share"] <= held[name], name
        assert history.train[-1]["tokens"] == SMALL.steps * SMALL.batch_size * SMALL.context


def test_matches_project_3_s_trainer(tmp_path):
    """Two ranks by each schedule: the losses and norms of project 3's loop in one process. A run that one
    process began goes on on two, stage by stage."""
    config = replace(SMALL, checkpoints=1)
    ways = {name: replace(config, schedule=name) for name in ("gpipe", "1f1b", "zb-h1")}
    ways |= {"rows": replace(config, rows=2, micro=2), "broken": replace(config, checkpoints=3)}
    truth = by_project_3(tmp_path, config, ways)
    break_off(ways["broken"], tmp_path / "broken", 4)
    found = spawn(run_as_rank, 2, ways, str(tmp_path), timeout=240.0)[0]
    agree(tmp_path, ways, found, truth, dict.fromkeys(ways, 0.6) | {"rows": 1.0})
    assert found["gpipe"]["held"] == 4 and found["1f1b"]["held"] == 2
    assert [path.name for path in (tmp_path / "broken").glob("step-*")] == ["step-6"]


@pytest.mark.slow
def test_matches_project_3_s_trainer_on_four_and_eight_ranks(tmp_path):
    """Tensor x pipeline, 2 x 2, then with data parallelism, 2 x 2 x 2; and four stages, two on each rank."""
    config = replace(SMALL, ranks=8, n_layer=4, checkpoints=1)
    four = {"2 x 2": replace(config, parts=2), "zb": replace(config, parts=2, schedule="zb-h1"),
            "interleaved": replace(config, rows=2, schedule="interleaved", rounds=2, micro=2)}  # fmt: skip
    eight = {"2 x 2 x 2": replace(config, parts=2, rows=2, micro=2)}
    truth = by_project_3(tmp_path, config, four | eight)
    found = spawn(run_as_rank, 4, four, str(tmp_path), timeout=240.0)[0]
    agree(tmp_path, four, found, truth, {"2 x 2": 0.34, "zb": 0.34, "interleaved": 0.6})
    found = spawn(run_as_rank, 8, eight, str(tmp_path), timeout=240.0)[0]
    agree(tmp_path, eight, found, truth, {"2 x 2 x 2": 0.34})
