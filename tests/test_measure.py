"""The verbs bench, profile, explore and expect: what they start, and the bands that expect measures."""
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.cli import measure
from common.errors import UserError


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The toy project is found, and what would be started is written down: [(module, args)]."""
    folder, calls = tmp_path / "project01_toy", []
    folder.mkdir()
    for name in ("bench", "explore", "train"):
        (folder / f"{name}.py").touch()
    card = SimpleNamespace(folder=folder, module="phase01.project01_toy", number=1, title="Toy", extras=())
    monkeypatch.setattr(measure, "find", lambda text: card)
    monkeypatch.setattr(measure, "need", lambda card: None)
    monkeypatch.setattr(measure, "start", lambda module, args: calls.append((module, args)) or 0)
    return calls


def test_verbs_start_the_projects_scripts(started):
    assert measure.bench(["1", "--full"]) == measure.profile(["1"]) == measure.explore(["1", "smoke"]) == 0
    toy = "phase01.project01_toy"
    assert started == [(f"{toy}.bench", ["--full"]), (f"{toy}.bench", ["--profile"]),
                       (f"{toy}.explore", ["smoke"])]


def test_verbs_say_how_they_are_used(started, capsys):
    assert measure.bench([]) == 2 and measure.bench(["--help"]) == 0
    assert capsys.readouterr().out.count("usage: thirty bench N") == 2 and not started


def test_a_project_without_the_script_is_one_line(started, tmp_path):
    (tmp_path / "project01_toy/explore.py").unlink()
    with pytest.raises(UserError, match=r"project 1, Toy, has no explore.py"):
        measure.explore(["1"])


def losses(monkeypatch, of_seed, code=0, **more):
    """`start` that leaves a result.json as a training run would."""
    def start(module, args):
        seed, out = int(args[2]), Path(args[4])
        assert args == ["smoke", "--seed", str(seed), "--out", str(out)] and not out.exists()
        out.mkdir(parents=True)
        result = {"metrics": {"val_loss": of_seed(seed)}, "device": "cpu", "machine": {"cpu": "Xeon"}, **more}
        (out / "result.json").write_text(json.dumps(result))
        return code
    monkeypatch.setattr(measure, "start", start)


def test_expect_measures_a_band_and_keeps_the_other_presets(started, tmp_path, monkeypatch, capsys):
    target = tmp_path / "project01_toy/results/expected.json"
    target.parent.mkdir()
    target.write_text('{"cpu": {"val_loss": {"mean": 1}}}')
    losses(monkeypatch, lambda seed: 2.0 + seed / 10, corpus="python-manual")
    assert measure.Expect("1", "smoke", seeds=(0, 1, 2))() == 0
    found = json.loads(target.read_text())
    assert found["cpu"] == {"val_loss": {"mean": 1}}
    band = found["smoke"]["val_loss"]
    assert band["mean"] == pytest.approx(2.1) and band["low"] == pytest.approx(1.7)
    assert band["seeds"] == [0, 1, 2]
    assert band["machine"] == "Xeon" and band["corpus"] == "python-manual" and band["commit"]
    assert "val_loss: 2.1, sd 0.1, band 1.7 to 2.5" in capsys.readouterr().out


def test_expect_refuses_too_few_seeds_and_failed_runs(started, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="three different seeds"):
        measure.Expect("1", "smoke", seeds=(0, 1, 1))()
    losses(monkeypatch, lambda seed: 2.0, code=1)
    with pytest.raises(UserError, match="ended with exit code 1: no band was written"):
        measure.Expect("1", "smoke")()
    assert not (tmp_path / "project01_toy/results/expected.json").exists()


@pytest.fixture
def done(tmp_path):
    """Writes a finished run of the toy project: done(seed, loss, ...) -> its folder."""
    def write(seed, loss, **more):
        result = {"project": "project01_toy", "script": "train", "preset": "smoke", "overridden": ["seed"],
                  "config": {"seed": seed}, "metrics": {"val_loss": loss}, "device": "cpu",
                  "machine": {"cpu": "Xeon"}, **more}
        (folder := tmp_path / f"run{seed}").mkdir()
        (folder / "result.json").write_text(json.dumps(result))
        return folder
    return write


def test_runs_that_are_done_count(started, tmp_path, monkeypatch, done):
    losses(monkeypatch, lambda seed: 2.0 + seed / 10)
    runs = (done(1, 9.0), done(7, 2.5, overridden=["seed", "save"]))
    measure.Expect("1", "smoke", seeds=(0, 1), runs=runs)()
    band = json.loads((tmp_path / "project01_toy/results/expected.json").read_text())["smoke"]["val_loss"]
    assert sorted(band["seeds"]) == [0, 1, 7] and band["mean"] == pytest.approx((2.0 + 9.0 + 2.5) / 3)


@pytest.mark.parametrize("more, why", [
    ({"preset": "cpu"}, "a run of project01_toy train cpu, not of project01_toy train smoke"),
    ({"project": "project02_other"}, "not of project01_toy"),
    ({"overridden": ["seed", "steps", "model"]}, "another model, steps than the preset's"),
])  # fmt: skip
def test_runs_of_something_else_do_not_count(started, done, more, why):
    with pytest.raises(UserError, match=why):
        measure.Expect("1", "smoke", runs=(done(5, 1.0, **more),))()


def test_a_run_that_did_not_end_does_not_count(started, tmp_path):
    with pytest.raises(UserError, match="has not come to its end"):
        measure.Expect("1", "smoke", runs=(tmp_path,))()


def test_a_band_on_a_gpu_names_the_gpu(started, tmp_path, monkeypatch):
    losses(monkeypatch, lambda seed: 2.0, device="cuda", machine={"cpu": "Xeon", "gpu": "NVIDIA H200"})
    measure.Expect("1", "smoke")()
    found = json.loads((tmp_path / "project01_toy/results/expected.json").read_text())
    assert found["smoke"]["val_loss"]["machine"] == "NVIDIA H200"
