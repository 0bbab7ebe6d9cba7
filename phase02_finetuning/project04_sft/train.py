"""Fine-tune the base model on conversations, and measure what it can do before and after.

Rows come from TinyTown, from files, or from the hub; an example is a conversation in the chat template, and
only its answers are learned. `--mode plain` goes on training on the same words as running text instead.
"""

import sys
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from common import hub, plots
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.paths import models
from common.cli.script import script
from common.device import dtype_for, seed_all
from common.errors import UserError, demand
from common.training import TrainConfig, train

from . import _data, _judge, skill
from .rows import TOWN
from .sft import AnswerLoss

SAMPLES = 6  # held-out rows whose replies are printed


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    data: str = TOWN
    """tinytown, instructions, alpaca, a JSON or JSONL file, a folder of them, or a name on the hub."""
    mode: Literal["instruction", "plain"] = "instruction"
    """instruction: the chat template, loss on the answers; plain: the same words as running text."""
    rows: int = 24_000
    """Rows to learn from at most; 0: all there are (TinyTown never ends)."""
    families: str = ""
    """Families of TinyTown to learn from, with commas between; empty: all."""
    pages: float = 0.0
    """Pages of the town mixed in, in tokens for each token of the rows, so that less is forgotten."""
    epochs: float = 2.0
    """How often each row is read."""
    batch_size: int = 48
    """Examples in an update."""
    context: int = 256
    """Tokens in a row of a batch at most; a longer conversation loses the oldest part of its prompt."""
    packing: bool = True
    """Several examples in a row, behind a mask; otherwise one, padded."""
    learning_rate: float = 5e-4
    """Highest size of an update; it warms up over a twentieth of the run and falls to a twentieth of
    itself."""
    weight_decay: float = 0.05
    """Decay of matrices."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 multiplies in bfloat16 under autocast; auto does so where the machine has units for it."""
    on_bad: Literal["skip", "refuse"] = "skip"
    """What to do with a row that is no conversation: name it and go on, or stop there."""
    evals: int = 8
    """Evaluations and checkpoints over the run."""
    judged: int = 20
    """Rows of each family of TinyTown that are asked before and after; 0: none."""
    text: int = 20_000
    """Tokens of running text by which forgetting is measured; 0: not measured."""
    save: bool = True
    """Save the model as models/sft, for the projects that follow."""
    seed: int = 1337
    """Start of the random numbers: the rows of TinyTown and their order."""

    def __post_init__(self):
        for name in ("batch_size", "evals"):
            demand(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("rows", "judged", "text"):
            demand(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: it must be at least 0")
        demand(self.context >= 8, f"context is {self.context}: it must be at least 8")
        demand(0 <= self.pages < 100, f"pages is {self.pages}: 0 for none, 0.25 for a fifth of all tokens")
        demand(self.epochs > 0, f"epochs is {self.epochs}: it must be above 0")
        if self.mode == "plain" and self.save:
            raise UserError("a model of --mode plain cannot chat: add --no-save, so that models/sft stays")

    def train_config(self, n_rows, device):
        bf16 = self.precision == "bf16" or (self.precision == "auto" and dtype_for(device) == torch.bfloat16)
        steps = max(1, round(self.epochs * -(-n_rows // self.batch_size)))
        every = -(-steps // self.evals)
        return TrainConfig(steps=steps, learning_rate=self.learning_rate, warmup=steps // 20, beta2=0.95,
                           min_learning_rate=self.learning_rate / 20, weight_decay=self.weight_decay,
                           precision="bf16" if bf16 else "fp32", log_every=-(-steps // 500),
                           eval_every=every, save_every=every)  # fmt: skip


PRESETS = {
    "smoke": Config(rows=46, epochs=1, batch_size=8, context=64, evals=2, judged=1, text=500, save=False),
    "cpu": Config(),
    "gpu": Config(rows=200_000, epochs=2, batch_size=256, context=1024, judged=100, text=200_000,
                  learning_rate=3e-4),
}  # fmt: skip


def measured(model, tokenizer, data, config, **how) -> tuple[dict[str, float], list[str]]:
    """All that is compared before and after: losses and scores (how: of `skills`); and a few replies."""
    found = {"answer_loss": _judge.answer_loss(model.eval(), data.valid, tokenizer.pad_id)}
    if config.text:
        found |= _judge.forgetting(model, tokenizer, config.text)
    if config.judged:
        found |= _judge.skills(model, tokenizer, config.judged, **how)
    return found, skill.replies(model, tokenizer, [skill.asked(row) for row in shown(data.held)])


def shown(held: list[dict]) -> list[dict]:
    """The held-out rows whose replies are printed."""
    return held[:: max(1, len(held) // SAMPLES)][:SAMPLES]


def fit(model, data, config, run, pad_id):
    """Tune the model in place; returns the history."""
    context = min(config.context, model.config.max_seq_len)
    batch_at = _data.batches(data.train, config, context, pad_id, run.device)
    seed_all(config.seed)
    settings, some = config.train_config(len(data.train), run.device), data.valid[:128]
    return train(AnswerLoss(model), batch_at, settings, folder=run.folder, resume=run.resumed, say=run.say,
                 evaluate=lambda: {"val_loss": _judge.answer_loss(model, some, pad_id)})  # fmt: skip


def show(before, after, config, run):
    """The tables of the end, and the picture."""
    named = {"answer_loss": "answers, nats a token", "ppl_pages": "perplexity of unseen pages",
             "ppl_manual": "perplexity of a manual"}  # fmt: skip
    for name in [name for name in named if name in after]:
        run.say(f"{named[name]:28} {before[name]:8.3f} before {after[name]:8.3f} after")
    if not config.judged:
        return
    guessed = _judge.chance(_judge.questions(config.judged, "held-out"))
    run.say("\n" + "\n".join(_judge.table(before, after, guessed)))
    for name, how in (("knowledge as text", "without a template"), ("knowledge in pages", "as pages ask")):
        run.say(f"knowledge, {how:18} {before[name]:7.0%} before {after[name]:8.0%} after")
    path = plots.save(_judge.picture(before, after, guessed), run.folder / "before_after.png")
    run.say(f"\npicture: {path}")


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    tokenizer, model = tokenizers.load(folder), hub.load(folder, device=run.device)
    context = min(config.context, model.config.max_seq_len)
    data = _data.load(config, tokenizer, context, run.say)
    sizes = [len(example.tokens) for example in data.train]
    share = sum(sum(example.counted) for example in data.train) / sum(sizes)
    filled = _data.filling(data.train, config)
    for line in (
        f"{config.data}: {len(data.rows):,} rows to learn from, {len(data.valid):,} held out",
        f"{data.bad} malformed and left out, {data.cut} longer than {context} tokens and cut",
        f"{sum(sizes):,} tokens, {share:.0%} of which count; padded, {filled:.0%} of a batch would be text",
    ):
        run.say(line)
    before, first = measured(model, tokenizer, data, config, splits=("held-out",))
    history = fit(model, data, config, run, tokenizer.pad_id)
    after, then = measured(model, tokenizer, data, config)
    for row, *said in zip(shown(data.held), first, then, strict=True):
        asked, *said = (text.replace("\n", " ⏎ ")[-160:] for text in (row["messages"][-2]["content"], *said))
        run.say(f"\n> {asked}\n  before: {said[0]}\n  after:  {said[1]}")
    run.say("")
    show(before, after, config, run)
    metrics = {**after, **{f"base: {name}": value for name, value in before.items()}}
    metrics |= {"seconds": history.train[-1]["seconds"], "tokens": sum(sizes) * config.epochs}
    card = {"made_by": "project04_sft", "command": " ".join(sys.argv), "config": asdict(config),
            "base": str(folder), "rows": len(data.rows), "metrics": metrics}  # fmt: skip
    for place in [run.folder / "model", *([models() / "sft"] if config.save else [])]:
        hub.save(model, place, tokenizer=tokenizer, card=card)
        run.say(f"saved: {place}")
    run.finish(metrics, corpus=config.data)


if __name__ == "__main__":
    script(main, PRESETS)
