"""The training loop: a module that gives a loss, a function that gives the i-th batch, and a run that can always go on.

    history = train(objective, batch_at, TrainConfig(steps=2000), folder=run.folder, resume=run.resumed,
                    evaluate=lambda: {"val_loss": ...}, say=run.say)

The objective is an nn.Module, `forward(batch) -> loss` (a scalar, the mean over its batch). `batch_at(i)` is a pure
function of the micro-batch's number, so that a resumed run sees what it would have seen. The folder gets
training.json (the settings, first of all), metrics.jsonl, last.safetensors and, if asked, best.safetensors.
Under torch.distributed the objective comes wrapped (DDP, FSDP2); every rank calls train, the first one writes.
"""
import json
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from common import checkpoint
from common.errors import UserError
from common.files import write_json
from common.progress import Clock, History, Report


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the course of a run, except the objective and its batches. UserError if it makes no sense."""
    steps: int = 2000
    """Updates in all."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached after the warm-up."""
    min_learning_rate: float = 1e-4
    """Learning rate at the end of the cosine."""
    warmup: int = 100
    """Updates of linear warm-up."""
    weight_decay: float = 0.1
    """Decay of matrices, as in AdamW."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.99
    """AdamW's decay of the second moment."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: never clipped."""
    accumulate: int = 1
    """Micro-batches in one update; their losses are averaged."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: products in bfloat16 under autocast, weights and optimizer stay as they are."""
    log_every: int = 10
    """Updates from one training record to the next."""
    eval_every: int = 250
    """Updates from one evaluation to the next."""
    save_every: int = 250
    """Updates from one checkpoint to the next."""
    keep_best: bool = False
    """Also keep the weights of the lowest val_loss, in best.safetensors."""
    tokens_per_batch: int = 0
    """Tokens in one micro-batch of one rank; 0: as many as the batch's first tensor has elements."""

    def __post_init__(self):
        for name in ("steps", "accumulate", "log_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("warmup", "weight_decay", "min_learning_rate", "clip", "tokens_per_batch"):
            if not getattr(self, name) >= 0:                     # not >=: so that NaN is refused too
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 0")
        if not (0 < self.learning_rate < math.inf and self.min_learning_rate <= self.learning_rate):
            raise UserError(f"learning_rate is {self.learning_rate} and min_learning_rate {self.min_learning_rate}: "
                            "the first must be positive and not below the second")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"beta1 is {self.beta1} and beta2 {self.beta2}: both must be from 0 to below 1")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision is {self.precision!r}: choose fp32 or bf16")


RECORD, METRICS, LAST, BEST = "training.json", "metrics.jsonl", "last.safetensors", "best.safetensors"
FREE = ("log_every", "eval_every", "save_every", "keep_best")     # may differ when a run is resumed


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups that hold every trainable parameter once: matrices and larger decay; vectors, such as biases and
    the gains of norms, do not. A parameter that two modules share (a tie) is one parameter."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [{"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}]


def adamw(objective: nn.Module, config: TrainConfig) -> Optimizer:
    """torch's AdamW over `parameter_groups`, in its fused form where the device has one."""
    groups = [group for group in parameter_groups(objective, config.weight_decay) if group["params"]]
    if not groups:
        raise UserError("the objective has no parameter to train: all are frozen, or it holds no model")
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=fused)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update `step`, counted from 0: linear warm-up, then a cosine down to the minimum.

    The warm-up takes `warmup` updates from 1/(warmup + 1) of the peak; the peak itself is the update after them.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / (config.warmup + 1)
    part = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    span = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + 0.5 * (1 + math.cos(math.pi * part)) * span


def train(objective: nn.Module, batch_at: Callable[[int], Any], config: TrainConfig, *, folder: Path | str,
          evaluate: Callable[[], dict[str, float]] | None = None,
          optimizer: Callable[[nn.Module, TrainConfig], Optimizer | Iterable[Optimizer]] | None = None,
          resume: bool = False, tracker: str | None = None, say: Callable[[str], Any] = print,
          on_eval: Callable[[int, dict], Any] | None = None) -> History:
    """Train `objective` in place and return the records of the whole run.

    evaluate() and on_eval(step, metrics), where one may sample, run before the first update, every `eval_every`
    updates and at the end, in eval mode, without gradients, under the same autocast; random generators are put
    back, so that they do not change the run. optimizer: a factory of one optimizer or several; the schedule scales
    the learning rates it sets. A folder that holds a run is gone on with if `resume`, else refused (UserError). A
    loss or gradient that is not finite, a full disk: UserError; the last checkpoint stays. Ctrl-C: the update is
    finished, saved, said, and KeyboardInterrupt raised; a second one does not wait.
    """
    folder, say = Path(folder), say if _rank() == 0 else _silent
    found = _first_rank(lambda: _claim(folder, config, resume, say))
    loop = Loop(objective, batch_at, config, folder, optimizer or adamw)
    if found:
        loop.restore()
    with loop.disk():
        loop.report = Report(folder / METRICS if _rank() == 0 else None, loop.step, config.steps, say)
        loop.report.track(tracker, asdict(config))
    try:
        with Stop() as stop:
            loop.run(evaluate, on_eval, stop)
    finally:
        loop.report.close()
    return loop.report.history


class Reading(NamedTuple):
    """What is known of one update."""
    step: int
    rate: float
    loss: float
    norm: float
    stopping: bool


class Loop:
    """One run in memory. `step` counts the updates made."""
    report: Report

    def __init__(self, objective, batch_at, config, folder, optimizer):
        self.objective, self.batch_at, self.config, self.folder = objective, batch_at, config, folder
        self.device = next(objective.parameters()).device
        made = optimizer(objective, config)
        self.optimizers = [made] if isinstance(made, Optimizer) else list(made)
        self.groups = [group for each in self.optimizers for group in each.param_groups]
        for group in self.groups:
            group.setdefault("initial_lr", float(group["lr"]))
        self.trained = [p for group in self.groups for p in group["params"]]
        self.step, self.tokens, self.best = 0, 0, math.inf
        self.saved: int | None = None               # the step of the checkpoint on disk
        self.clock, self.mark = Clock(), (0, 0.0)   # tokens and seconds at the last training record
        self.pending: deque[tuple[int, float, Tensor, Any]] = deque()
        self.last: Reading | None = None

    # ---- one update ----

    def update(self, stopping: bool) -> None:
        """Forward, backward, clip and step. On a CPU a loss that is not finite ends it before the step is made."""
        rate = self.set_learning_rate()
        loss = self.backward()
        norm = self.clip()
        values = torch.stack((loss, norm.to(loss), torch.full_like(loss, float(stopping))))
        if dist.is_initialized():
            values /= dist.get_world_size()
            dist.all_reduce(values)
        self.step += 1
        self.see(rate, values)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self) -> float:
        rate = learning_rate(self.step, self.config)
        for group in self.groups:
            value = group["initial_lr"] * rate / self.config.learning_rate
            if isinstance(group["lr"], Tensor):     # where the optimizer is compiled
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        return rate

    def backward(self) -> Tensor:
        """Add up the gradients of the micro-batches' mean loss; returns that mean."""
        n, losses = self.config.accumulate, []
        for micro in range(n):
            batch = self.batch_at(self.step * n + micro)
            self.tokens += (self.config.tokens_per_batch or _size(batch)) * _world()
            with _gradient_sync(self.objective, last=micro == n - 1):
                with self.autocast():
                    loss = self.objective(batch)
                (loss / n).backward()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def clip(self) -> Tensor:
        """The norm of the gradient before it is clipped."""
        norm = get_total_norm([p.grad for p in self.trained if p.grad is not None])
        if self.config.clip:
            clip_grads_with_norm_(self.trained, self.config.clip, norm)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.config.precision == "bf16" else nullcontext()

    def see(self, rate: float, values: Tensor) -> None:
        """Read loss and norm: at once on a CPU; on a GPU those of the update before, so that it need not wait."""
        copied = None
        if self.device.type == "cuda":  # pragma: no cover - gpu
            values = values.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self.pending.append((self.step, rate, values, copied))
        self.catch_up(1 if copied else 0)

    def catch_up(self, late: int = 0) -> None:
        """Read all but the last `late` updates. UserError at the first whose loss or gradient is not finite."""
        while len(self.pending) > late:
            step, rate, values, copied = self.pending.popleft()
            if copied:  # pragma: no cover - gpu
                copied.synchronize()
            loss, norm, stopping = values.tolist()
            self.last = Reading(step, rate, loss, norm, stopping > 0)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self.fail(f"the loss is {loss:.4g}", "lower the learning rate, or clip at a smaller norm")

    # ---- the run ----

    def run(self, evaluate: Callable | None, on_eval: Callable | None, stop: "Stop") -> None:
        if evaluate and self.step == 0:
            self.evaluation(evaluate, on_eval)
        self.clock.start()
        while self.step < self.config.steps:
            self.update(stop.asked)
            if self.due(self.config.log_every):
                self.record()
            if evaluate and self.due(self.config.eval_every):
                self.evaluation(evaluate, on_eval)
            if self.last and self.last.stopping:
                self.interrupted()
            if self.due(self.config.save_every):
                self.save()

    def due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def record(self) -> None:
        """Write down the update just made."""
        self.catch_up()
        seconds, (tokens, since) = self.clock.read(), self.mark
        self.mark = (self.tokens, seconds)
        with self.disk():
            self.report.train({"step": self.step, "loss": self.last.loss, "lr": self.last.rate,
                               "grad_norm": self.last.norm, "tokens": self.tokens,
                               "tokens_per_s": (self.tokens - tokens) / (seconds - since), "seconds": seconds})

    def evaluation(self, evaluate: Callable, on_eval: Callable | None) -> None:
        """Run the caller's evaluation so that the training does not notice."""
        self.catch_up()
        with self.clock.paused(), evaluating(self.objective, self.device), self.autocast():
            metrics = _first_of(evaluate())
            with self.disk():
                self.report.eval({"step": self.step, "tokens": self.tokens, "seconds": self.clock.seconds, **metrics})
            if not all(map(math.isfinite, metrics.values())):
                self.fail(f"the evaluation gave {metrics}", "look at the batches that it reads")
            if on_eval:
                on_eval(self.step, metrics)
            if self.config.keep_best and metrics["val_loss"] < self.best:
                self.best = metrics["val_loss"]
                self.write(BEST, {"weights": checkpoint.weights(self.objective), "step": self.step,
                                  "val_loss": self.best})

    def save(self) -> None:
        """All that is needed to go on, in last.safetensors."""
        self.catch_up()
        with self.clock.paused():
            self.write(LAST, {
                "weights": checkpoint.weights(self.objective), "step": self.step, "tokens": self.tokens,
                "optimizers": [checkpoint.optimizer_state(each, self.objective) for each in self.optimizers],
                "rng": _of_all(checkpoint.rng_state(self.device)), "best": self.best, "seconds": self.clock.seconds,
                "mark": self.mark})
            self.saved = self.step

    def write(self, name: str, state: dict) -> None:
        if _rank() == 0:
            with self.disk():
                checkpoint.write(self.folder / name, state)

    def restore(self) -> None:
        """Put everything back as `save` found it. UserError if it does not fit."""
        state = checkpoint.read(self.folder / LAST)
        if len(state["rng"]) != _world():
            raise UserError(f"the run in {self.folder} was made by {len(state['rng'])} processes and cannot go on "
                            f"exactly with {_world()}: start as many, or a new run")
        checkpoint.load_weights(self.objective, state["weights"])
        for each, saved in zip(self.optimizers, state["optimizers"], strict=True):
            checkpoint.load_optimizer(each, self.objective, saved)
        checkpoint.set_rng_state(state["rng"][_rank()], self.device)
        self.step, self.tokens, self.best, self.mark = (state[k] for k in ("step", "tokens", "best", "mark"))
        self.saved, self.clock = self.step, Clock(state["seconds"])

    # ---- ends ----

    def interrupted(self) -> None:
        self.save()
        self.report.say(f"stopped at step {self.step} of {self.config.steps} and saved in {self.folder}: "
                        "the same command with --resume goes on from here")
        raise KeyboardInterrupt

    def fail(self, what: str, cure: str) -> None:
        kept = f"step {self.saved} is saved in {self.folder / LAST}" if self.saved else "nothing was saved before"
        at = self.last or Reading(self.step, learning_rate(self.step, self.config), math.nan, math.nan, False)
        raise UserError(f"{what} at step {at.step} (learning rate {at.rate:.4g}, gradient norm {at.norm:.4g}); "
                        f"{kept}: {cure}")

    @contextmanager
    def disk(self) -> Iterator[None]:
        """Around what writes: a full disk ends the run in one line."""
        try:
            yield
        except OSError as error:
            self.fail(f"cannot write to {self.folder} ({error.strerror or error})", "make room, then --resume")


class Stop:
    """While it is entered, Ctrl-C and SIGTERM only set `asked`; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.asked, self.before = False, {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():     # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        os.write(2, b"\nfinishing this update, then saving; Ctrl-C again stops at once\n")


@contextmanager
def evaluating(objective: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode and no gradients inside; every module's mode and every random generator is as before on leaving."""
    modes, before = [(m, m.training) for m in objective.modules()], checkpoint.rng_state(device)
    objective.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        checkpoint.set_rng_state(before, device)


def _claim(folder: Path, config: TrainConfig, resume: bool, say: Callable) -> bool:
    """Make the folder this run's, or see that it is. True: there is a checkpoint to go on from."""
    held = [name for name in (RECORD, METRICS, LAST) if (folder / name).exists()]
    if held and not resume:
        raise UserError(f"{folder} already holds a run ({', '.join(held)}): add --resume to go on with it, or name "
                        "another folder")
    if held:
        _same(folder / RECORD, config)
    else:
        try:
            write_json(folder / RECORD, asdict(config))
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror or error}): name another folder") from error
    if resume and LAST not in held:
        say(f"no checkpoint in {folder} yet: starting from step 0")
    return LAST in held


def _same(record: Path, config: TrainConfig) -> None:
    try:
        made_with = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the settings of the run in {record} ({error}): start a new run") from None
    wrong = [f"{name} was {made_with.get(name)}, now {value}" for name, value in asdict(config).items()
             if name not in FREE and made_with.get(name) != value]
    if wrong:
        raise UserError(f"the run in {record.parent} was made with other settings ({'; '.join(wrong)}): "
                        "give the same ones, or start a new run")


def _gradient_sync(objective: nn.Module, last: bool):
    """Ranks exchange gradients once an update, with the last micro-batch."""
    if hasattr(objective, "set_requires_gradient_sync"):              # FSDP2
        objective.set_requires_gradient_sync(last)
    return objective.no_sync() if hasattr(objective, "no_sync") and not last else nullcontext()     # DDP


def _size(batch: Any) -> int:
    """Elements of the first tensor in a tensor, a sequence or a dict."""
    while not isinstance(batch, Tensor):
        batch = next(iter(batch.values() if isinstance(batch, dict) else batch))
    return batch.numel()


# ---- several processes ----

def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _silent(text: str) -> None:
    """What ranks other than the first say."""


def _first_of(value: Any) -> Any:
    """The first rank's value, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def _of_all(value: Any) -> list:
    """Every rank's value, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _first_rank(do: Callable[[], Any]) -> Any:
    """What `do` gives on the first rank, on every rank; its UserError is raised on every rank."""
    value, error = None, None
    if _rank() == 0:
        try:
            value = do()
        except UserError as found:
            error = found
    value, error = _first_of((value, error))
    if error:
        raise error
    return value
