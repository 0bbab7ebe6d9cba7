"""What decides the course of a training run: its settings, which parameters decay, the rate of each step."""
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from common.errors import UserError
from common.files import write_json

RECORD, METRICS = "training.json", "metrics.jsonl"
LAST, BEST = "last.safetensors", "best.safetensors"
FREE = ("log_every", "eval_every", "save_every", "keep_best")     # may differ when a run goes on


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run. UserError if they make no sense. A step is one update of the weights."""
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
    """bf16: matrix products in bfloat16 under autocast; weights and optimizer stay as they are."""
    log_every: int = 10
    """Updates from one training record to the next."""
    eval_every: int = 250
    """Updates from one evaluation to the next."""
    save_every: int = 250
    """Updates from one checkpoint to the next."""
    keep_best: bool = False
    """Also keep the weights of the lowest val_loss, in best.safetensors."""
    tokens_per_batch: int = 0
    """Tokens in one micro-batch of one process; 0: as many as the batch's first tensor has elements."""

    def __post_init__(self):
        for name in ("steps", "accumulate", "log_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("warmup", "weight_decay", "min_learning_rate", "clip", "tokens_per_batch"):
            if not 0 <= getattr(self, name) < math.inf:               # refuses NaN too
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 0, and finite")
        if not (0 < self.learning_rate < math.inf and self.min_learning_rate <= self.learning_rate):
            raise UserError(f"learning_rate is {self.learning_rate} and min_learning_rate "
                            f"{self.min_learning_rate}: the first must be over 0 and not below the second")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"beta1 is {self.beta1} and beta2 {self.beta2}: both must be in [0, 1)")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision is {self.precision!r}: choose fp32 or bf16")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Every trainable parameter once, in two groups: matrices decay; vectors (biases, gains of norms) do not.

    A parameter that two modules share (a tie) is one parameter. A group that would be empty is left out.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
              {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(objective: nn.Module, config: TrainConfig) -> Optimizer:
    """torch's AdamW over `parameter_groups`, in its fused form where the device has one."""
    groups = parameter_groups(objective, config.weight_decay)
    if not groups:
        raise UserError("the objective has no parameter to train: all are frozen, or it holds no model")
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=fused)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update `step`, counted from 0: linear warm-up, then half a cosine down to the minimum.

    The warm-up takes `warmup` updates and begins at 1/(warmup + 1) of the peak; the next one has the peak.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / (config.warmup + 1)
    part = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    span = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + 0.5 * (1 + math.cos(math.pi * part)) * span


def claim(folder: Path, config: TrainConfig, resume: bool, say: Callable[[str], Any]) -> bool:
    """Make the folder this run's by recording `config` in it, or see that it is. True: it holds a checkpoint.

    UserError for a folder with a run in it, unless `resume` and the run has the same settings.
    """
    held = [name for name in (RECORD, METRICS, LAST) if (folder / name).exists()]
    if held and not resume:
        raise UserError(f"{folder} already holds a run ({', '.join(held)}): add --resume to go on with it, "
                        "or name another folder")
    if resume and LAST not in held:
        say(f"no checkpoint in {folder} yet: starting at step 0")
    if held:
        _same(folder / RECORD, config)
        return LAST in held
    try:
        write_json(folder / RECORD, asdict(config))
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write to {folder} ({why}): name another folder") from error
    return False


def _same(record: Path, config: TrainConfig) -> None:
    try:
        made_with = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the settings in {record} cannot be read ({error}): start a new run") from None
    differ = [f"{name} was {made_with.get(name)}, now {value}" for name, value in asdict(config).items()
              if name not in FREE and made_with.get(name) != value]
    if differ:
        raise UserError(f"the run in {record.parent} was made with other settings ({'; '.join(differ)}): "
                        "give the same ones, or start a new run")
