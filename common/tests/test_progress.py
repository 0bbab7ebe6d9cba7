"""What a run tells: JSON lines that survive a kill, a bar in a terminal, lines elsewhere, trackers."""
import json
import os
import subprocess
import sys
import time
import types

import pytest

from common import progress
from common.errors import UserError
from common.progress import Clock, History, Report, open_tracker, read_history


def row(step, loss=1.0):
    return {"step": step, "loss": loss, "lr": 0.1, "grad_norm": 0.5, "tokens": 10 * step,
            "tokens_per_s": 1234.5, "seconds": 0.1 * step}


def told(tmp_path, steps=10, said=None):
    return Report(tmp_path / "metrics.jsonl", 0, steps, (said if said is not None else []).append)


def test_a_record_is_a_line_and_comes_back(tmp_path):
    report = told(tmp_path)
    report.eval({"step": 0, "tokens": 0, "seconds": 0.0, "val_loss": 2.5})
    report.train(row(1))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()      # on disk before anything is closed
    assert [json.loads(line)["kind"] for line in lines] == ["eval", "train"]
    assert json.loads(lines[1]) == {"kind": "train", **row(1)}
    report.close()
    assert read_history(tmp_path / "metrics.jsonl") == report.history
    assert report.history.series("val_loss") == ([0], [2.5]) and report.history.series("loss") == ([1], [1.0])
    assert report.history.series("nothing") == ([], [])


def test_the_best_evaluation():
    rows = [{"step": i, "val_loss": loss} for i, loss in enumerate((3.0, 1.0, 2.0))]
    assert History(evals=rows).best == rows[1] and History().best is None


def test_the_speed_is_the_median_without_the_first():
    rates = [1.0, 900.0, 700.0, 800.0]
    assert History(train=[{"tokens_per_s": rate} for rate in rates]).speed == 800
    assert History(train=[{"tokens_per_s": 5.0}]).speed == 5


def test_resuming_cuts_torn_and_later_lines(tmp_path):
    report = told(tmp_path)
    for step in (1, 2, 3):
        report.train(row(step))
    report.eval({"step": 2, "tokens": 0, "seconds": 0.0, "val_loss": 2.5})
    report.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "ste')
    again = Report(tmp_path / "metrics.jsonl", 2, 10, print)
    again.train(row(3, loss=9.0))
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in rows] == [("train", 1), ("train", 2), ("eval", 2), ("train", 3)]
    assert rows[-1]["loss"] == 9.0 and again.history.series("loss") == ([1, 2, 3], [1.0, 1.0, 9.0])


def test_a_disk_that_takes_half_a_line_is_full(tmp_path):
    report = told(tmp_path)
    report.file = types.SimpleNamespace(write=lambda data: len(data) // 2)
    with pytest.raises(OSError, match="No space left"):
        report.train(row(1))


def test_other_ranks_write_nothing(tmp_path):
    report = Report(None, 0, 10, lambda text: None)
    report.track("wandb", {})
    report.train(row(1))
    report.close()
    assert report.history.train == [row(1)] and not os.listdir(tmp_path)


def test_where_there_is_no_terminal_lines_are_few(tmp_path, monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    report = told(tmp_path, steps=60, said=said)
    for step in range(1, 61):
        now[0] += 0.5
        report.train(row(step))
    assert [line.split()[1] for line in said] == ["20/60", "40/60", "60/60"]
    assert said[0] == "step 20/60  loss 1.0000  1,234 tokens/s  0:20 left"


def test_in_a_terminal_a_bar_is_drawn_and_lines_go_above_it(tmp_path):
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    script = ("import sys; sys.path.insert(0, sys.argv[1])\n"
              "from pathlib import Path; from common.progress import Report\n"
              "import time, rich.console\n"
              "r = Report(Path(sys.argv[2]), 0, 4, print)\n"
              "for step in range(1, 5):\n"
              "    time.sleep(0.3)\n"
              "    r.train({'step': step, 'loss': 1 / step, 'tokens_per_s': 5000})\n"
              "r.eval({'step': 4, 'tokens': 1, 'seconds': 1.0, 'val_loss': 0.25})\n"
              "r.close()\n")
    root = str(progress.Path(__file__).parents[2])
    child = subprocess.Popen([sys.executable, "-c", script, root, str(tmp_path / "m.jsonl")], stdout=follower,
                             env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:                      # Linux says so when the other end is closed
            break
        if not part:
            break
        text += part
    assert child.wait() == 0
    text = text.decode()
    assert "4/4" in text and "loss 0.2500" in text and "5,000 tokens/s" in text and "left" in text
    assert "step 4: val_loss 0.2500" in text


@pytest.mark.parametrize("seconds, text", [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3725, "1:02:05")])
def test_minutes(seconds, text):
    assert progress._minutes(seconds) == text


def test_the_clock_leaves_out_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(5.0)
    now[0] = 2.0
    with clock.paused():
        now[0] = 100.0
    now[0] = 101.0
    assert clock.read() == 8.0


# ---- trackers ----

@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_gets_every_record(tmp_path, monkeypatch, name):
    calls = []
    fake = types.ModuleType(name)
    fake.init = lambda **given: calls.append(("init", given))
    fake.log = lambda record, step: calls.append((step, record))
    fake.finish = lambda: calls.append("finish")
    monkeypatch.setitem(sys.modules, name, fake)
    report = told(tmp_path)
    report.track(name, {"steps": 10})
    report.train(row(1))
    report.eval({"step": 1, "tokens": 0, "seconds": 0.0, "val_loss": 2.5})
    report.close()
    assert calls[0][1]["config"] == {"steps": 10} and calls[0][1]["name"] == tmp_path.name
    assert calls[1][0] == 1 and calls[1][1]["train/loss"] == 1.0 and "train/step" not in calls[1][1]
    assert calls[2][1]["eval/val_loss"] == 2.5 and calls[3] == "finish"


def test_tensorboard_gets_every_record(tmp_path, monkeypatch):
    written = []
    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    log, close = open_tracker("tensorboard", tmp_path, {})
    log({"train/loss": 1.5}, 3)
    close()
    assert written == [str(tmp_path / "tensorboard"), ("train/loss", 1.5, 3), "closed"]


@pytest.mark.parametrize("name", progress.TRACKERS)
def test_a_tracker_that_is_not_installed_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(UserError, match=f"pip install {name}") as error:
        open_tracker(name, tmp_path, {})
    assert "\n" not in str(error.value)


def test_a_tracker_that_is_none_gets_a_suggestion(tmp_path):
    with pytest.raises(UserError, match="did you mean wandb"):
        open_tracker("wanbd", tmp_path, {})
    with pytest.raises(UserError, match="choose one of trackio, tensorboard, wandb"):
        open_tracker("notebook", tmp_path, {})
