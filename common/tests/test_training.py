"""The training loop: exact resume, clean stops, and updates equal to torch's own."""
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common import checkpoint
from common.errors import UserError
from common.progress import History, read_history
from common.training import TrainConfig, adamw, learning_rate, parameter_groups, train

ROOT = Path(__file__).parents[2]
TINY = TrainConfig(steps=12, warmup=3, learning_rate=0.01, log_every=1, eval_every=4, save_every=4)


class Objective(nn.Module):
    """A tied embedding with dropout, and noise from Python and NumPy, so that every generator matters."""

    def __init__(self, noise=True):
        super().__init__()
        self.embed, self.norm = nn.Embedding(16, 8), nn.LayerNorm(8)
        self.drop = nn.Dropout(0.3 if noise else 0)
        self.up, self.head = nn.Linear(8, 8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight
        self.noise = noise

    def forward(self, batch):
        x, y = batch
        hidden = self.drop(self.up(self.norm(self.embed(x))).relu())
        if self.training and self.noise:
            hidden = hidden * (1 + random.random() * np.random.rand())
        return nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), y.flatten())


def batch_at(i):
    x = torch.randint(16, (4, 6), generator=torch.Generator().manual_seed(i))
    return x, (x + 1) % 16


def fresh(noise=True):
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    return Objective(noise)


def go(folder, batches=batch_at, config=TINY, *, noise=True, **options):
    """A fresh objective, trained: (objective, history). Seeds first, so that two calls do the same."""
    objective = fresh(noise)
    return objective, train(objective, batches, config, folder=folder, **{"say": quiet, **options})


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def quiet(text):
    """Say nothing."""


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


class Killed(Exception):
    """Stands for the end of the process."""


def until(i):
    def batches(j):
        if j == i:
            raise Killed
        return batch_at(j)
    return batches


# ---- resume ----

CHILD = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    import importlib.util
    import torch
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("training_tests", {file!r})
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    tests.long_run(Path(sys.argv[1]), resume="--resume" in sys.argv)
"""


def long_run(folder, resume=False):
    """300 updates; saves so often that a kill also strikes within a save."""
    objective = fresh()
    held = batch_at(10**6)
    config = replace(TINY, steps=300, eval_every=10, save_every=2, keep_best=True)
    def evaluate():
        return {"val_loss": objective(held).item() + random.random() * torch.rand(1).item()}
    return objective, train(objective, batch_at, config, folder=folder, resume=resume, say=quiet,
                            evaluate=evaluate)


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_sigkill_at_a_random_step_and_resume_give_the_same_bits(tmp_path, kills):
    threads, chance = torch.get_num_threads(), random.Random()
    torch.set_num_threads(1)
    try:
        whole, history = long_run(tmp_path / "whole")
        child = tmp_path / "child.py"
        child.write_text(textwrap.dedent(CHILD.format(root=str(ROOT), file=__file__)))
        for kill in range(kills):
            command = [sys.executable, str(child), str(tmp_path / "killed"), *["--resume"] * kill]
            process = subprocess.Popen(command)
            step = 200 * kill // kills + chance.randrange(2, 200 // kills)
            wait_for_steps(tmp_path / "killed" / "metrics.jsonl", step, process)
            process.kill()                                           # SIGKILL; TerminateProcess on Windows
            assert process.wait() != 0
        resumed, second = long_run(tmp_path / "killed", resume=True)
    finally:
        torch.set_num_threads(threads)
    assert same(whole, resumed)
    timeless = [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_s")}
                for h in (history, second) for row in (*h.train, *h.evals)]
    assert timeless[:len(timeless) // 2] == timeless[len(timeless) // 2:] and len(history.train) == 300
    best = [checkpoint.read(tmp_path / run / "best.safetensors") for run in ("whole", "killed")]
    assert best[0]["val_loss"] == best[1]["val_loss"] == history.best["val_loss"]
    assert all(torch.equal(value, best[1]["weights"][name]) for name, value in best[0]["weights"].items())
    left = {"training.json", "metrics.jsonl", "last.safetensors", "best.safetensors"}
    assert set(os.listdir(tmp_path / "killed")) == left


def wait_for_steps(path, steps, process, timeout=120):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        rows = read_history(path).train
        if rows and rows[-1]["step"] >= steps:
            return
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.002)
    raise AssertionError(f"no step {steps} within {timeout} s")


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    said = []
    with pytest.raises(Killed):
        go(tmp_path / "a", until(2))
    again, history = go(tmp_path / "a", resume=True, say=said.append)
    whole, _ = go(tmp_path / "b")
    assert same(again, whole) and len(history.train) == 12
    assert any("starting at step 0" in line for line in said)


def test_a_resume_that_forgot_something_would_be_seen(tmp_path, monkeypatch):
    """The equality of these tests has teeth: without the random generators the weights differ."""
    whole, _ = go(tmp_path / "a")
    with pytest.raises(Killed):
        go(tmp_path / "b", until(6))
    monkeypatch.setattr("common.training.set_rng_state", lambda state, device: None)
    resumed, _ = go(tmp_path / "b", resume=True)
    assert not same(whole, resumed)


def muon(objective, config):
    matrix = [objective.up.weight]
    others = [p for p in objective.parameters() if p is not matrix[0]]
    return [torch.optim.Muon(matrix, lr=0.02), torch.optim.AdamW(others, lr=0.01)]


def test_several_optimizers_go_on_too(tmp_path):
    whole, _ = go(tmp_path / "a", optimizer=muon)
    with pytest.raises(Killed):
        go(tmp_path / "b", until(6), optimizer=muon)
    with pytest.raises(UserError, match=r"Muon \+ AdamW"):
        go(tmp_path / "b", resume=True)
    resumed, _ = go(tmp_path / "b", optimizer=muon, resume=True)
    assert same(whole, resumed)


def test_a_finished_run_resumes_to_its_end(tmp_path):
    whole, first = go(tmp_path)
    again, second = go(tmp_path, until(0), resume=True)
    assert same(whole, again) and first == second


def test_what_reports_draw_does_not_show(tmp_path):
    """Importing rich draws from Python's generator, and who knows what a tracker does."""
    def draws(text):
        return random.random(), torch.rand(1), np.random.rand()
    evaluate = lambda: {"val_loss": 1.0}  # noqa: E731
    plain, _ = go(tmp_path / "a", evaluate=evaluate)
    told, _ = go(tmp_path / "b", evaluate=evaluate, say=draws, config=replace(TINY, save_every=1))
    assert same(plain, told)


# ---- an existing folder ----

def test_a_folder_with_a_run_is_never_overwritten(tmp_path):
    go(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="--resume"):
        go(tmp_path)
    with pytest.raises(UserError, match=r"learning_rate was 0\.01, now 0\.02") as error:
        go(tmp_path, config=replace(TINY, learning_rate=0.02), resume=True)
    one_line(error)
    (tmp_path / "training.json").unlink()
    with pytest.raises(UserError, match="already holds a run"):
        go(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        go(tmp_path, resume=True)
    del before["training.json"]
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_how_often_it_logs_and_saves_may_change_on_resume(tmp_path):
    with pytest.raises(Killed):
        go(tmp_path / "a", until(6))
    resumed, _ = go(tmp_path / "a", config=replace(TINY, save_every=1, log_every=5), resume=True)
    whole, _ = go(tmp_path / "b")
    assert same(resumed, whole)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="name another folder") as error:
        go(tmp_path / "file" / "run")
    one_line(error)


def test_settings_are_written_before_anything_else(tmp_path):
    with pytest.raises(Killed):
        go(tmp_path, until(0))
    assert json.loads((tmp_path / "training.json").read_text())["learning_rate"] == 0.01


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    go(tmp_path)
    other = Objective()
    other.extra = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"missing: extra\.bias, extra\.weight") as error:
        train(other, batch_at, TINY, folder=tmp_path, resume=True, say=quiet)
    one_line(error)


# ---- stops ----

class Poisoned(Objective):
    """Gives a loss that is not finite, or a finite one with a gradient that is not, at the update `at`."""

    def __init__(self, at, value, gradient=False):
        super().__init__()
        self.at, self.value, self.gradient, self.calls = at, value, gradient, 0

    def forward(self, batch):
        loss = super().forward(batch)
        self.calls += self.training
        if self.calls == self.at and self.gradient:
            loss.register_hook(lambda grad: grad * self.value)
        return loss * self.value if self.calls == self.at and not self.gradient else loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_not_finite_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, value, gradient):
    torch.manual_seed(0)
    objective = Poisoned(7, value, gradient)
    with pytest.raises(UserError) as error:
        train(objective, batch_at, TINY, folder=tmp_path, say=quiet)
    rate = learning_rate(6, TINY)
    message = one_line(error)
    assert "at step 7 " in message and f"learning rate {rate:.4g}" in message and "step 4 is safe" in message
    assert "gradient norm " + ("nan" if math.isnan(value) or not gradient else "inf") in message or gradient
    assert checkpoint.read(tmp_path / "last.safetensors")["step"] == 4
    assert read_history(tmp_path / "metrics.jsonl").train[-1]["step"] == 6
    assert all(torch.isfinite(p).all() for p in objective.parameters())


def test_a_nan_in_one_micro_batch_of_an_update_is_seen(tmp_path):
    with pytest.raises(UserError, match="at step 2 "):
        train(Poisoned(4, math.nan), batch_at, replace(TINY, accumulate=3), folder=tmp_path, say=quiet)


def test_a_nan_in_the_evaluation_stops_the_run(tmp_path):
    with pytest.raises(UserError, match="evaluation gave"):
        go(tmp_path, evaluate=lambda: {"val_loss": math.nan})


@pytest.mark.parametrize("where", ["common.checkpoint.save_file", "common.checkpoint.os.fsync"])
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, monkeypatch, where):
    with pytest.raises(Killed):
        go(tmp_path, until(6))
    def full(*_, **__):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(UserError, match="No space left on device") as error:
            go(tmp_path, resume=True)
    message = one_line(error)
    for part in ("at step 8 ", "learning rate", "gradient norm", "step 4 is safe", "--resume"):
        assert part in message
    resumed, _ = go(tmp_path, resume=True)
    whole, _ = go(tmp_path / "whole")
    assert same(resumed, whole)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_under_the_metrics_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("common.progress._cut", lambda path, step: History())
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    (tmp_path / "training.json").write_text(json.dumps(TINY.__dict__))
    with pytest.raises(UserError, match="No space left on device") as error:
        go(tmp_path, resume=True)
    assert "at step 1 " in one_line(error)


def interrupting(number, times=1):
    def batches(i):
        if i == 5:
            for _ in range(times):
                signal.raise_signal(number)
        return batch_at(i)
    return batches


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capfd, number):
    said, handler = [], signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "a", interrupting(number), say=said.append)
    assert signal.getsignal(number) is handler
    assert "--resume" in said[-1] and "step 7 of 12" in said[-1] and "\n" not in said[-1]
    assert "Ctrl-C again" in capfd.readouterr().err
    resumed, _ = go(tmp_path / "a", resume=True)
    whole, _ = go(tmp_path / "b")
    assert same(resumed, whole)


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, interrupting(signal.SIGINT, times=2))
    assert checkpoint.read(tmp_path / "last.safetensors")["step"] == 4


# ---- the update ----

def test_each_update_is_torchs(tmp_path):
    """Against a loop written out with torch's own optimizer, schedulers and clipping."""
    config = replace(TINY, clip=0.5, weight_decay=0.2)
    ours, history = go(tmp_path, config=config, noise=False)
    theirs = fresh(noise=False)
    plain = {id(p) for name, p in theirs.named_parameters() if "norm" in name or "bias" in name}
    optimizer = torch.optim.AdamW([
        {"params": [p for p in theirs.parameters() if id(p) not in plain], "weight_decay": 0.2},
        {"params": [p for p in theirs.parameters() if id(p) in plain], "weight_decay": 0.0}],
        lr=0.01, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [
        torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 4, 1.0, total_iters=3),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9, eta_min=1e-4)], [3])
    for i in range(12):
        loss = theirs(batch_at(i))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        row = history.train[i]
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert row["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    for name, value in ours.state_dict().items():
        assert (value - theirs.state_dict()[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_the_large_batch(tmp_path, accumulate):
    """In float64, so that 1e-6 over twelve updates speaks of the arithmetic and not of rounding."""
    def micro(i):
        x, y = batch_at(i // accumulate)
        part = slice(*(4 // accumulate * (i % accumulate + k) for k in (0, 1)))
        return x[part], y[part]
    large, small = fresh(noise=False).double(), fresh(noise=False).double()
    one = train(large, batch_at, TINY, folder=tmp_path / "a", say=quiet)
    many = train(small, micro, replace(TINY, accumulate=accumulate), folder=tmp_path / "b", say=quiet)
    for name, value in large.state_dict().items():
        assert (value - small.state_dict()[name]).abs().max() < 1e-6, name
    assert one.series("loss")[1] == pytest.approx(many.series("loss")[1], abs=1e-9)
    assert one.train[-1]["tokens"] == many.train[-1]["tokens"] == 12 * 24


def test_clip_zero_never_clips(tmp_path):
    def sgd(objective, config):
        return torch.optim.SGD(objective.parameters(), lr=1.0)
    def run(clip):
        config = replace(TINY, clip=clip, steps=3)
        return go(tmp_path / str(clip), config=config, optimizer=sgd, noise=False)[0]
    assert same(run(0), run(1e9)) and not same(run(1), run(0.01))


def test_bf16_changes_products_and_nothing_else(tmp_path):
    class Probe(Objective):
        def forward(self, batch):
            dtypes.add(self.up(torch.zeros(1, 8)).dtype)
            return super().forward(batch)
    losses = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        dtypes = set()
        torch.manual_seed(7)
        objective = Probe(noise=False)
        def evaluate(objective=objective):
            return {"val_loss": objective(batch_at(99)).item()}
        history = train(objective, batch_at, replace(TINY, precision=precision), folder=tmp_path / precision,
                        say=quiet, evaluate=evaluate)
        assert dtypes == {dtype} and all(p.dtype == torch.float32 for p in objective.parameters())
        losses.append(history.series("loss")[1])
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], abs=2e-2)   # bf16 keeps 8 bits


def test_parameter_groups_hold_each_parameter_once():
    objective = Objective()
    objective.frozen = nn.Linear(3, 3)
    objective.frozen.requires_grad_(False)
    decay, plain = parameter_groups(objective, 0.3)
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {id(p) for p in decay["params"]} == {id(objective.embed.weight), id(objective.up.weight)}
    ids = [id(p) for group in (decay, plain) for p in group["params"]]
    assert sorted(ids) == sorted({id(p) for p in objective.parameters() if p.requires_grad})
    assert len(parameter_groups(nn.LayerNorm(3), 0.1)) == 1


def test_nothing_to_train_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no parameter to train"):
        adamw(Objective().requires_grad_(False), TINY)


def test_the_schedule_by_hand():
    config = TrainConfig(steps=10, warmup=4, learning_rate=1.0, min_learning_rate=0.2)
    assert [learning_rate(i, config) for i in range(5)] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert learning_rate(7, config) == pytest.approx(0.6)              # half way down
    assert learning_rate(6, config) == pytest.approx(0.2 + 0.8 * 0.75)     # cos(pi/3) = 1/2
    assert learning_rate(10, config) == learning_rate(99, config) == pytest.approx(0.2)
    flat = replace(config, warmup=0, min_learning_rate=1.0)
    assert {learning_rate(i, flat) for i in range(10)} == {1.0}
    assert learning_rate(3, replace(config, warmup=20)) == pytest.approx(4 / 21)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"accumulate": 0}, {"warmup": -1}, {"learning_rate": 0},
                                   {"learning_rate": math.nan}, {"min_learning_rate": 1}, {"beta1": 1.0},
                                   {"clip": math.nan}, {"beta2": -0.1}, {"precision": "fp8"},
                                   {"weight_decay": -1}])
def test_settings_that_make_no_sense_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))) as error:
        TrainConfig(**wrong)
    one_line(error)


# ---- evaluation ----

def test_an_evaluation_does_not_change_the_run(tmp_path):
    """It draws from every generator, switches modes, and sees eval mode without gradients."""
    plain, _ = go(tmp_path / "a")
    watched, seen = fresh(), []
    watched.up.eval()                                                  # a part that is kept in eval mode
    def look():
        seen.append((watched.training, torch.is_grad_enabled(), watched.drop.training))
        torch.rand(5), np.random.rand(5), random.random()
    def evaluate():
        look()
        return {"val_loss": watched(batch_at(3)).item()}
    history = train(watched, batch_at, replace(TINY, eval_every=1, keep_best=True), folder=tmp_path / "b",
                    evaluate=evaluate, on_eval=lambda step, metrics: look(), say=quiet)
    assert same(plain, watched) and set(seen) == {(False, False, False)} and len(seen) == 26
    assert watched.training and watched.drop.training and not watched.up.training
    assert [row["step"] for row in history.evals] == list(range(13))
    best = checkpoint.read(tmp_path / "b" / "best.safetensors")
    assert (best["step"], best["val_loss"]) == (history.best["step"], min(history.series("val_loss")[1]))
