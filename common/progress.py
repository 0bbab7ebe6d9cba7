"""What a run tells of itself: a History in memory, JSON lines on disk, a bar or plain lines on the screen."""
import difflib
import errno
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from common.errors import UserError
from common.files import write_text

TRACKERS = ("trackio", "tensorboard", "wandb")    # each is also the name of the package to install


@dataclass
class History:
    """The records of a run, in order. A step is counted once its update is made: the first one is step 1.

    train: {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "seconds"}; loss and gradient norm
    are those that the update was made from. evals: {"step", "tokens", "seconds", and what evaluate() gave}.
    tokens and seconds count from the start of the run over all resumes; seconds leave out evaluations and
    saves.
    """
    train: list[dict] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one quantity, for a plot: `history.series("val_loss")`."""
        rows = [row for row in self.train if name in row] or [row for row in self.evals if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]

    @property
    def speed(self) -> float:
        """Tokens a second: the median of the records, the first of which warms up."""
        return median([row["tokens_per_s"] for row in self.train][1:] or [self.train[0]["tokens_per_s"]])

    @property
    def best(self) -> dict | None:
        """The evaluation with the lowest val_loss; None without one."""
        rows = [row for row in self.evals if "val_loss" in row]
        return min(rows, key=lambda row: row["val_loss"], default=None)


def read_history(path: Path, *, up_to: float = math.inf) -> History:
    """The records of a metrics.jsonl up to a step, less a last line that a killed process left unfinished."""
    history = History()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["step"] <= up_to:
            (history.evals if record.pop("kind") == "eval" else history.train).append(record)
    return history


class Report:
    """Keeps the History, appends each record to metrics.jsonl, shows it, and passes it on to a tracker.

    path None, on processes other than the first: only keeps the History.
    """

    def __init__(self, path: Path | None, step: int, steps: int, say: Callable[[str], Any]):
        self.history, self.path, self.say, self.log = History(), path, say, None
        self.file = self.screen = None
        self.closers: list[Callable[[], Any]] = []
        if path:
            self.history = _cut(path, step)
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
            self.screen = Screen(step, steps, say)
            self.closers = [self.file.close, self.screen.close]

    def track(self, name: str | None, config: dict) -> None:
        """Also send every record to the tracker of that name. UserError if there is none or it is missing."""
        if name and self.path:
            self.log, close = open_tracker(name, self.path.parent, config)
            self.closers.append(close)

    def train(self, record: dict) -> None:
        self._add("train", self.history.train, record)
        if self.screen:
            self.screen.show(record)

    def eval(self, record: dict) -> None:
        self._add("eval", self.history.evals, record)
        given = {key: value for key, value in record.items() if key not in ("step", "tokens", "seconds")}
        self.say(f"step {record['step']}: " + ", ".join(f"{key} {value:.4f}" for key, value in given.items()))

    def _add(self, kind: str, rows: list[dict], record: dict) -> None:
        rows.append(record)
        if self.file:
            line = _line(kind, record).encode()
            if self.file.write(line) != len(line):        # a disk that fills up takes a part without an error
                raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        if self.log:
            values = {f"{kind}/{key}": value for key, value in record.items() if key != "step"}
            self.log(values, record["step"])

    def close(self) -> None:
        for close in reversed(self.closers):
            close()


def _cut(path: Path, step: int) -> History:
    """Drop from metrics.jsonl what lies past the checkpoint, since it is about to be written again."""
    history = read_history(path, up_to=step)
    rows = [("train", row) for row in history.train] + [("eval", row) for row in history.evals]
    rows.sort(key=lambda pair: pair[1]["step"])
    write_text(path, "".join(_line(kind, row) for kind, row in rows))
    return history


def _line(kind: str, record: dict) -> str:
    return json.dumps({"kind": kind, **record}) + "\n"


class Clock:
    """Seconds of training, over all resumes, without what happens while it is paused."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self.start()

    def start(self) -> None:
        self.since = time.perf_counter()

    def read(self) -> float:
        """Seconds up to now."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        return self.seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.read()
        try:
            yield
        finally:
            self.start()


class Screen:
    """A bar in a terminal, elsewhere a line every ten seconds and at the end.

    The bar is drawn at most four times a second and by no thread of its own: a thread would take time from
    the training, which on a small model shows.
    """

    def __init__(self, done: int, steps: int, say: Callable[[str], Any]):
        from rich.console import Console
        self.first, self.steps, self.say = done, steps, say
        self.started = self.drawn = time.perf_counter()
        self.bar = self._bar(done) if Console().is_terminal else None

    def _bar(self, done: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        columns = MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}")
        bar = Progress(*columns, auto_refresh=False)
        self.task = bar.add_task("", total=self.steps, completed=done, text="")
        bar.start()
        return bar

    def show(self, record: dict) -> None:
        now, step = time.perf_counter(), record["step"]
        if now - self.drawn < (0.25 if self.bar else 10) and step < self.steps:
            return
        self.drawn = now
        left = (now - self.started) / (step - self.first) * (self.steps - step)
        text = f"loss {record['loss']:.4f}  {record['tokens_per_s']:,.0f} tokens/s  {_minutes(left)} left"
        if self.bar:
            self.bar.update(self.task, completed=step, text=text)
            self.bar.refresh()
        else:
            self.say(f"step {step}/{self.steps}  {text}")

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def _minutes(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def open_tracker(name: str, folder: Path, config: dict) -> tuple[Callable, Callable]:
    """(log(record, step), close()) of a tracker in TRACKERS. UserError if it is none, or not installed."""
    if name not in TRACKERS:
        near = difflib.get_close_matches(name, TRACKERS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(TRACKERS)}"
        raise UserError(f"there is no tracker {name!r}: {hint}")
    try:
        library = import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError:
        raise UserError(f"the tracker {name} is not installed: `pip install {name}`, or leave it out; "
                        "metrics.jsonl is written anyway") from None
    if name == "tensorboard":
        writer = library.SummaryWriter(str(folder / "tensorboard"))
        return lambda record, step: [writer.add_scalar(*pair, step) for pair in record.items()], writer.close
    library.init(project=folder.parent.name, name=folder.name, config=config)
    return lambda record, step: library.log(record, step=step), library.finish
