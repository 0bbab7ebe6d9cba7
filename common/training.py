"""The training loop over an objective: a run that stops cleanly, can always go on, and says what it did.

    history = train(objective, batch_at, TrainConfig(steps=2000), folder=run.folder, resume=run.resumed,
                    evaluate=lambda: {"val_loss": ...}, say=run.say)

The objective is a module, forward(batch) -> loss: a scalar, the mean over the batch. batch_at(i) is a pure
function of the micro-batch's number, so that a resumed run sees what it would have seen. The folder gets
training.json (the settings, first of all), metrics.jsonl, last.safetensors and, if asked, best.safetensors.
Under torch.distributed the objective comes wrapped (DDP, FSDP2): all ranks call train, the first one writes.
"""
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from common import checkpoint
from common.device import rng_state, same_draws, set_rng_state
from common.errors import UserError
from common.process import Stop, exchange, first_of, of_all, on_first, rank, several, world_size
from common.progress import Clock, History, Report
from common.recipe import BEST, LAST, METRICS, TrainConfig, adamw, claim, learning_rate, parameter_groups

__all__ = ["History", "TrainConfig", "adamw", "learning_rate", "parameter_groups", "train"]


def train(objective: nn.Module, batch_at: Callable[[int], Any], config: TrainConfig, *, folder: Path | str,
          evaluate: Callable[[], dict[str, float]] | None = None,
          optimizer: Callable[[nn.Module, TrainConfig], Optimizer | Iterable[Optimizer]] | None = None,
          resume: bool = False, tracker: str | None = None, say: Callable[[str], Any] = print,
          on_eval: Callable[[int, dict], Any] | None = None) -> History:
    """Train `objective` in place and return the records of the whole run.

    evaluate() and on_eval(step, metrics), where one may sample, run before the first update, every
    `eval_every` updates and at the end: in eval mode, without gradients, under the same autocast, and so that
    the run does not notice. optimizer: a factory of one optimizer or several; the schedule scales the rates
    that it sets. A folder that holds a run is gone on with if `resume`, else refused (UserError). Loss or
    gradient not finite, or a full disk: UserError, and the last checkpoint stays. Ctrl-C: the update is
    finished, the run saved, what to do next said, and KeyboardInterrupt raised; a second one does not wait.
    """
    folder, say = Path(folder), say if rank() == 0 else _silent
    saved = on_first(lambda: claim(folder, config, resume, say))
    draws = rng_state(next(objective.parameters()).device)
    loop = Loop(objective, batch_at, config, folder, optimizer or adamw)
    if saved:
        draws = loop.restore()
    with loop.disk():
        loop.report = Report(folder / METRICS if rank() == 0 else None, loop.step, config.steps, say)
    loop.report.history = first_of(loop.report.history)
    try:
        loop.report.track(tracker, asdict(config))
        set_rng_state(draws, loop.device)        # whatever was built or imported up to here may have drawn
        with Stop() as stop:
            loop.run(evaluate, on_eval, stop)
    finally:
        loop.report.close()
    return loop.report.history


class Reading(NamedTuple):
    """What is known of an update: its loss and the norm of its gradient before that is clipped."""
    step: int
    rate: float
    loss: float = math.nan
    norm: float = math.nan
    stopping: bool = False


class Loop:
    """A run in memory. `step` is the number of updates made."""
    report: Report

    def __init__(self, objective, batch_at, config, folder, optimizer):
        self.objective, self.batch_at, self.config, self.folder = objective, batch_at, config, folder
        self.device = next(objective.parameters()).device
        made = optimizer(objective, config)
        self.optimizers = [made] if isinstance(made, Optimizer) else list(made)
        for group in self.groups():
            group.setdefault("initial_lr", float(group["lr"]))
        self.trained = [p for group in self.groups() for p in group["params"]]
        self.step, self.tokens, self.best = 0, 0, math.inf
        self.saved = 0                              # the step of the checkpoint on disk
        self.clock, self.mark = Clock(), (0, 0.0)   # tokens and seconds at the last record
        self.pending: deque[tuple[int, float, Tensor, Any]] = deque()
        self.last = Reading(0, 0.0)

    def groups(self) -> list[dict]:
        return [group for each in self.optimizers for group in each.param_groups]

    # ---- one update ----

    def update(self, stopping: bool) -> None:
        """Forward, backward, clip, step. On a CPU a loss that is not finite stops it before the step."""
        rate = self.set_learning_rate()
        loss = self.backward()
        norm = self.clip()
        values = torch.stack((loss, norm.to(loss), torch.full_like(loss, float(stopping))))
        if several():                               # so that all ranks see one loss, and stop together
            values /= world_size()
            dist.all_reduce(values)
        self.step += 1
        self.see(rate, values)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self) -> float:
        rate = learning_rate(self.step, self.config)
        for group in self.groups():
            value = group["initial_lr"] * (rate / self.config.learning_rate)
            if isinstance(group["lr"], Tensor):     # where the optimizer is compiled
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        return rate

    def backward(self) -> Tensor:
        """Gradients of the mean loss of the micro-batches; returns that mean."""
        n, losses = self.config.accumulate, []
        for micro in range(n):
            batch = self.batch_at(self.step * n + micro)
            self.tokens += (self.config.tokens_per_batch or _size(batch)) * world_size()
            with exchange(self.objective, last=micro == n - 1):
                with self.autocast():
                    loss = self.objective(batch)
                (loss / n).backward()
            losses.append(loss.detach())
        mean = sum(losses) / n
        return mean.to(torch.promote_types(mean.dtype, torch.float32))

    def clip(self) -> Tensor:
        """The norm of the gradient before it is clipped."""
        norm = get_total_norm([p.grad for p in self.trained if p.grad is not None])
        if self.config.clip:
            clip_grads_with_norm_(self.trained, self.config.clip, norm)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm        # sharded by FSDP2

    def autocast(self):
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def see(self, rate: float, values: Tensor) -> None:
        """Read loss and norm: at once on a CPU; on a GPU those of the update before, which cost no wait."""
        copied = None
        if self.device.type == "cuda":  # pragma: no cover - gpu
            values = values.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self.pending.append((self.step, rate, values, copied))
        self.catch_up(1 if copied else 0)

    def catch_up(self, late: int = 0) -> None:
        """Read all but the `late` newest updates. UserError at the first whose loss or norm is not finite."""
        while len(self.pending) > late:
            step, rate, values, copied = self.pending.popleft()
            if copied:  # pragma: no cover - gpu
                copied.synchronize()
            loss, norm, stopping = values.tolist()
            self.last = Reading(step, rate, loss, norm, stopping > 0)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self.fail(f"the loss is {loss:.4g}", "lower the learning rate, or clip at a smaller norm")

    # ---- the run ----

    def run(self, evaluate: Callable | None, on_eval: Callable | None, stop: Stop) -> None:
        if evaluate and self.step == 0:
            self.evaluation(evaluate, on_eval)
        self.clock.start()
        while self.step < self.config.steps:
            self.update(stop.asked)
            if self.due(self.config.log_every):
                self.record()
            if evaluate and self.due(self.config.eval_every):
                self.evaluation(evaluate, on_eval)
            if self.due(self.config.save_every):
                self.save()
            if self.last.stopping:
                self.interrupt()

    def due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def record(self) -> None:
        """Write down the update just made."""
        self.catch_up()
        seconds, (tokens, since) = self.clock.read(), self.mark
        self.mark = (self.tokens, seconds)
        row = {"step": self.step, "loss": self.last.loss, "lr": self.last.rate, "grad_norm": self.last.norm,
               "tokens": self.tokens, "tokens_per_s": (self.tokens - tokens) / (seconds - since),
               "seconds": seconds}
        with self.disk(), same_draws(self.device):
            self.report.train(row)

    def evaluation(self, evaluate: Callable, on_eval: Callable | None) -> None:
        """The caller's evaluation, in a way that the training does not notice."""
        self.catch_up()
        with self.clock.paused(), evaluating(self.objective, self.device), self.autocast():
            metrics = first_of(evaluate())
            if not all(map(math.isfinite, metrics.values())):
                self.fail(f"the evaluation gave {metrics}", "look at the text that it reads")
            row = {"step": self.step, "tokens": self.tokens, "seconds": self.clock.seconds, **metrics}
            with self.disk():
                self.report.eval(row)
            if self.config.keep_best and metrics["val_loss"] < self.best:
                self.best = metrics["val_loss"]
                self.write(BEST, {"weights": checkpoint.weights(self.objective), **row})
            if on_eval:
                on_eval(self.step, metrics)

    def save(self) -> None:
        """All that is needed to go on, in last.safetensors."""
        self.catch_up()
        if self.saved == self.step:
            return
        with self.clock.paused():
            self.write(LAST, {
                "weights": checkpoint.weights(self.objective),
                "optimizers": [checkpoint.optimizer_state(each, self.objective) for each in self.optimizers],
                "rng": of_all(rng_state(self.device)), "step": self.step, "tokens": self.tokens,
                "seconds": self.clock.seconds, "mark": self.mark, "best": self.best, "last": list(self.last)})
        self.saved = self.step

    def write(self, name: str, state: dict) -> None:
        if rank() == 0:
            with self.disk(), same_draws(self.device):
                checkpoint.write(self.folder / name, state)

    def restore(self) -> dict:
        """Put everything back as `save` found it, but for the random generators, whose state it returns.

        UserError if it does not fit.
        """
        state = checkpoint.read(self.folder / LAST)
        if len(state["rng"]) != world_size():
            raise UserError(f"the run in {self.folder} was made by {len(state['rng'])} processes and cannot "
                            f"go on exactly with {world_size()}: start it with as many, or start a new run")
        checkpoint.load_weights(self.objective, state["weights"])
        checkpoint.load_optimizers(self.optimizers, self.objective, state["optimizers"])
        self.step, self.tokens, self.best = state["step"], state["tokens"], state["best"]
        self.saved, self.mark, self.clock = self.step, state["mark"], Clock(state["seconds"])
        self.last = Reading(*state["last"])._replace(stopping=False)
        return state["rng"][rank()]

    # ---- how it ends before its time ----

    def interrupt(self) -> None:
        self.save()
        self.report.say(f"stopped at step {self.step} of {self.config.steps} and saved in {self.folder}: "
                        "the same command with --resume goes on from here")
        raise KeyboardInterrupt

    def fail(self, what: str, cure: str) -> None:
        at = self.last
        kept = f"step {self.saved} is safe in {self.folder / LAST}" if self.saved else "nothing was saved yet"
        raise UserError(f"{what} at step {at.step} (learning rate {at.rate:.4g}, gradient norm {at.norm:.4g})"
                        f"; {kept}: {cure}")

    @contextmanager
    def disk(self) -> Iterator[None]:
        """Around what writes: a full disk ends the run in one line."""
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            self.fail(f"cannot write to {self.folder} ({why})", "make room, then go on with --resume")


@contextmanager
def evaluating(objective: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, no gradients; on leaving, each module's mode and every random generator are as before."""
    modes = [(module, module.training) for module in objective.modules()]
    objective.eval()
    try:
        with torch.no_grad(), same_draws(device):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _size(batch: Any) -> int:
    """Elements of the first tensor in a tensor, a sequence or a dict."""
    while not isinstance(batch, Tensor):
        batch = next(iter(batch.values() if isinstance(batch, dict) else batch))
    return batch.numel()


def _silent(text: str) -> None:
    """What the ranks other than the first say."""
