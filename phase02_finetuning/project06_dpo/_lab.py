"""What the experiments of `explore` share: one reference, and tuned copies of it, each judged alike."""

import copy
import dataclasses
import tempfile
from pathlib import Path

import torch

from common.cli import explore
from common.cli.script import Run
from data.tinytown import reward
from phase02_finetuning.project04_sft import skill

from . import _data, _judge
from ._rollouts import draw, drift
from ._tuning import Tuning
from .dpo import PreferenceLoss
from .train import PRESETS


class Lab(explore.Album):
    """The reference (the model after plain fine-tuning), the rows, and ways to tune a copy of it."""

    def __init__(self, config, run):
        super().__init__(config, run)
        alike = ("model", "pairs", "held_out", "seed", "warm", "prompts", "group", "max_tokens")
        same = {name: getattr(config, name) for name in alike}
        self.base = dataclasses.replace(PRESETS["cpu"], evals=4, **same)
        self.first = Tuning(self.base, self.inside(run.folder))
        if config.warm:
            self.first.warm()
        self.reference = copy.deepcopy(self.first.model).eval().requires_grad_(False)
        self.rows, self.tokenizer = self.first.found.held_rows, self.first.tokenizer

    def inside(self, folder) -> Run:
        """The run, with another folder, and what the stages say left out."""
        inner = dataclasses.replace(self.run, folder=Path(folder), resumed=False)
        inner.say = lambda text: None
        return inner

    def tuning(self, folder, **changes) -> Tuning:
        """A Tuning that begins at the reference; changes: of train's Config."""
        made = copy.copy(self.first)
        made.config = dataclasses.replace(self.base, **changes)
        made.run, made.phases = self.inside(folder), None
        made.model, made.reference = copy.deepcopy(self.reference), self.reference
        made.model.requires_grad_()
        return made

    def prefer(self, pairs=None, steps=0, **changes):
        """(tuned model, history) of DPO or another method; pairs: in place of the lab's own."""
        with tempfile.TemporaryDirectory() as folder:
            made = self.tuning(folder, steps=steps or self.config.steps, **changes)
            if pairs is not None:
                made.found = made.found._replace(pairs=pairs)
            history = made.prefer(*made.config.written())
        return made.model, history

    def without_reference(self, steps):
        """(tuned model): DPO's loss with a reference of zeros."""
        with tempfile.TemporaryDirectory() as folder:
            made = self.tuning(folder, steps=steps)
            how = made.config.written()
            objective = PreferenceLoss(made.model, "dpo", how[2])
            made.fit("", objective, made.pairs_at(), *how[:2])
        return made.model

    def reinforce(self, score=None, **changes):
        """(tuned model, log of its phases) of PPO or GRPO. score: what is heard, in place of the judge."""
        with tempfile.TemporaryDirectory() as folder:
            made = self.tuning(folder, steps=2 * self.config.phases, **changes)
            steps, rate, beta, _ = made.config.written()
            made.reinforce(steps, rate, beta, score)
        return made.model, made.phases.log

    # ---- judging ----

    def replies(self, model):
        """Greedy replies to the held-out questions."""
        asked = [row["messages"] for row in self.rows]
        return skill.replies(model, self.tokenizer, asked, max_tokens=self.config.max_tokens)

    def judged(self, model) -> dict[str, float]:
        """Manners of greedy replies, words in them, KL from the reference, and held-out accuracy."""
        texts = self.replies(model)
        prompts = [pair.prompt for pair in self.first.found.held[:32]]
        words = sum(len(text.split()) for text in texts) / len(texts)
        kl = drift(model, self.reference, self.tokenizer, prompts, max_tokens=self.config.max_tokens)
        right = self.accuracy(model)
        return {**_judge.manners(self.rows, texts), "words": words, "kl": kl, "accuracy": right}

    def accuracy(self, model, pairs=None) -> float:
        """The share of held-out pairs whose chosen answer gained more on the reference."""
        pairs = self.first.found.held if pairs is None else pairs
        gain = self.first.known(model, pairs) - self.first.known(self.reference, pairs)
        return (gain[0] > gain[1]).float().mean().item()

    def pair(self, row, chosen, rejected):
        """The question of a row with these answers."""
        made = {**row, "chosen": chosen, "rejected": rejected}
        return _data.pair_of(made, self.tokenizer, self.reference.config.max_seq_len)

    @torch.no_grad()
    def sampled(self, model):
        """(rows, texts): an answer drawn to each held-out question."""
        prompts = [pair.prompt for pair in self.first.found.held]
        return self.rows, draw(model, self.tokenizer, prompts, max_tokens=self.config.max_tokens).texts

    def mean_reward(self, model) -> float:
        """What drawn answers deserve."""
        return sum(reward(row, text) for row, text in zip(*self.sampled(model), strict=True)) / len(self.rows)

    def show(self, found: dict[str, dict[str, float]], *columns):
        """A table on the screen."""
        self.run.say(" " * 24 + "".join(f"{name:>10}" for name in columns))
        for name, values in found.items():
            self.run.say(f"  {name:22}" + "".join(f"{values[column]:10.2f}" for column in columns))
