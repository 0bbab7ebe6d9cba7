"""Tune a model on preferences: DPO, IPO or SimPO on given answers, PPO or GRPO on answers of its own.

The model is the one of project 4. A short plain fine-tuning comes first, on answers as the pairs have them:
its result is a model that could have written them, the reference from which KL is measured.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from common import plots
from common.cli.script import script
from common.device import dtype_for, seed_all
from common.errors import UserError, demand
from common.training import TrainConfig

from . import _pictures
from ._tuning import Tuning

WRITTEN = {  # what each method takes where the command line says nothing: steps, rate, beta, gamma
    "dpo": (250, 2e-4, 0.1, 0.0), "ipo": (250, 2e-4, 0.1, 0.0), "simpo": (250, 1e-4, 2.0, 0.5),
    "ppo": (160, 2e-4, 0.05, 0.0), "grpo": (160, 2e-4, 0.04, 0.0)}  # fmt: skip


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/sft, and where there is none, a tiny one made now."""
    method: Literal["dpo", "ipo", "simpo", "ppo", "grpo"] = "dpo"
    """How to learn; ppo and grpo judge answers that the model writes itself."""
    preferences: str = "tinytown"
    """Where pairs come from: tinytown, preferences, or a JSON or JSONL file of rows."""
    pairs: int = 4000
    """Pairs to train on."""
    held_out: int = 400
    """Pairs to judge on, never trained on."""
    steps: int = 0
    """Updates; 0: as many as the method takes."""
    batch_size: int = 16
    """Pairs in an update."""
    learning_rate: float = 0.0
    """Peak learning rate; 0: the method's own."""
    beta: float = -1.0
    """The weight of the reference: larger stays nearer; -1: the method's own."""
    gamma: float = -1.0
    """simpo's margin; -1: the method's own."""
    layout: Literal["shared", "side-by-side"] = "shared"
    """shared reads a prompt once for both answers of its pair."""
    warm: int = 200
    """Updates of plain fine-tuning before, on answers of the pairs."""
    warm_rate: float = 2e-3
    """Peak learning rate of that."""
    warm_on: Literal["chosen", "both"] = "both"
    """Which answers that is: those preferred, or both kinds, as a model writes that was never told."""
    reward: Literal["judge", "model"] = "judge"
    """What ppo and grpo hear: TinyTown's judge, or a reward model trained on the pairs first."""
    reward_steps: int = 150
    """Updates of the reward model."""
    prompts: int = 16
    """Questions that ppo and grpo ask at a time."""
    group: int = 4
    """Answers to each of them."""
    updates: int = 2
    """Updates on those before the next are asked."""
    max_tokens: int = 40
    """Tokens of an answer at most."""
    kl_target: float = 6.0
    """Nats an answer from the reference at which ppo's price of KL stays as it is."""
    judged: int = 200
    """Held-out questions for win rate and skill."""
    evals: int = 5
    """Evaluations and checkpoints over the run."""
    save: bool = True
    """Save the model as models/dpo (or the method's name), for the projects that follow."""
    seed: int = 1337
    """Start of the random numbers."""

    def __post_init__(self):
        for name in ("pairs", "held_out", "batch_size", "reward_steps", "prompts", "updates", "max_tokens",
                     "judged", "evals"):  # fmt: skip
            demand(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("steps", "warm", "learning_rate"):
            demand(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: it must be at least 0")
        demand(self.group >= 2, f"group is {self.group}: answers are compared, so there must be 2 at least")
        whole = self.prompts * self.group % self.updates == 0
        demand(whole, f"{self.prompts} x {self.group} answers cannot be cut into {self.updates} updates")

    def written(self) -> tuple[int, float, float, float]:
        """(steps, learning rate, beta, gamma), each as given or as the method has it."""
        steps, rate, beta, gamma = WRITTEN[self.method]
        return (self.steps or steps, self.learning_rate or rate, beta if self.beta < 0 else self.beta,
                gamma if self.gamma < 0 else self.gamma)  # fmt: skip

    @staticmethod
    def fast(device) -> bool:
        """Whether the device has units for bfloat16."""
        return dtype_for(device) == torch.bfloat16

    def train_config(self, device, steps, rate) -> TrainConfig:
        """For any of the stages. A checkpoint falls on the end of a phase."""
        every = -(-steps // (self.evals * self.updates)) * self.updates
        return TrainConfig(steps=steps, learning_rate=rate, min_learning_rate=rate / 10, warmup=steps // 10,
                           weight_decay=0.0, beta2=0.95, log_every=max(1, steps // 200), eval_every=every,
                           save_every=every, precision="bf16" if self.fast(device) else "fp32")  # fmt: skip


PRESETS = {
    "smoke": Config(pairs=64, held_out=16, steps=4, batch_size=4, warm=2, reward_steps=2, prompts=4, group=2,
                    max_tokens=12, judged=8, evals=2, save=False),
    "cpu": Config(),
    "gpu": Config(pairs=40_000, held_out=2000, steps=2500, batch_size=64, prompts=64, group=8, judged=1000),
}  # fmt: skip


def main(config, run):
    if config.method in ("dpo", "ipo") and config.written()[2] <= 0:
        raise UserError("beta 0 forgets the reference, and the loss no longer depends on the model: above 0")
    seed_all(config.seed)
    tuning = Tuning(config, run)
    history = tuning.tune()
    metrics = {name: value for name, value in history.evals[-1].items()
               if name not in ("step", "tokens", "seconds")}  # fmt: skip
    metrics |= tuning.judge()
    drawn = _pictures.of_run(history, tuning.phases and tuning.phases.log, config.method)
    run.say(f"curves: {plots.save(drawn, run.folder / 'curves.png')}")
    tuning.save(metrics)
    run.finish(metrics, corpus=config.preferences)


if __name__ == "__main__":
    script(main, PRESETS)
