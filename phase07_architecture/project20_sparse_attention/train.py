"""Make the base model's context longer: RoPE scaled, then a short training on long chronicles.

It is judged before and after, by what a token costs at each place, and by facts that it is to find again
in a text several times as long as any it was made on.
"""

import copy
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
from common.errors import demand
from common.model import set_attend
from common.recipe import TrainConfig
from common.training import train

from . import _long
from ._sides import NAMES, attend_of
from .rope_scaling import extend


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    way: Literal["linear", "ntk", "yarn"] = "yarn"
    """How RoPE is scaled."""
    factor: float = 4.0
    """How many times as long the context becomes."""
    pattern: str = "dense"
    """Who looks at whom: dense, window, sinks, longformer, bigbird, fixed, strided or routed."""
    width: int = 256
    """Keys of a window; routed reads as many."""
    length: int = 0
    """Tokens of a training row; 0: the whole new context."""
    steps: int = 160
    """Updates."""
    batch_size: int = 1
    """Rows in an update."""
    learning_rate: float = 1e-3
    """Highest size of an update."""
    documents: int = 8
    """Chronicles to judge by."""
    save: bool = False
    """Save the model as models/long."""
    seed: int = 1337
    """Of the training."""

    def __post_init__(self):
        demand(self.pattern in NAMES, f"there is no pattern {self.pattern!r}: {', '.join(NAMES)}")
        demand(self.factor >= 1, f"a factor of {self.factor}: a context becomes at least as long as it was")
        least = min(self.steps, self.batch_size, self.documents, self.width)
        demand(least >= 1, "steps, batch_size, documents and width must be at least 1")
        demand(self.length == 0 or self.length >= _long.LEAST, f"length must be {_long.LEAST} or more, or 0")


PRESETS = {
    "smoke": Config(factor=2.0, length=512, steps=2, documents=2, width=16),
    "cpu": Config(),
    "gpu": Config(factor=16.0, steps=2000, batch_size=8, documents=32),
}


def fit(model, chronicles, config, run):
    """Train in place on long rows; the history."""
    seed_all(config.seed)
    objective = _long.Reading(model).train()
    bf16 = dtype_for(run.device) == torch.bfloat16
    settings = TrainConfig(steps=config.steps, learning_rate=config.learning_rate, warmup=config.steps // 10,
                           min_learning_rate=config.learning_rate / 20, weight_decay=0.0, beta2=0.95,
                           precision="bf16" if bf16 else "fp32", log_every=max(1, config.steps // 40),
                           eval_every=config.steps, save_every=config.steps)  # fmt: skip
    batch_at = chronicles.batches(config.batch_size, run.device)

    def evaluate():
        losses, _, _ = _long.judge(model, chronicles, range(2))
        return {"val_loss": losses.mean().item()}

    return train(objective, batch_at, settings, folder=run.folder, evaluate=evaluate, resume=run.resumed,
                 say=run.say)  # fmt: skip


def draw(found, context, size):
    """What a token costs by its place, and what share of the facts was found, by where they stand."""
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    for name, (losses, _, by_depth) in found.items():
        line = _long.binned(losses, size)
        left.plot([size * (i + 0.5) for i in range(len(line))], line, label=name)
        right.plot(list(by_depth), list(by_depth.values()), "o-", label=name)
    left.axvline(context, color=plots.QUIET, linewidth=1, linestyle=":")
    left.set(xlabel="position; dotted: the old context", ylabel="nats a token")
    right.set(xlabel="where the fact stands in the text", ylabel="facts found", ylim=(-0.03, 1.03))
    plots.legend(left)
    return fig


def report(found, context, size, say):
    """Print the table; {figure: value}."""
    metrics = {}
    for name, (losses, needles, _) in found.items():
        end = _long.collapse(losses, context, size)
        within, beyond = losses[size:context].mean().item(), losses[context:].mean().item()
        say(f"{name:18} {within:.3f} nats within {context}, {beyond:.3f} beyond"
            + (f", collapses at {end}" if end else "") + f"; {needles:.0%} of the facts found")  # fmt: skip
        metrics |= {f"{name}: within": within, f"{name}: beyond": beyond, f"{name}: found": needles}
    return metrics


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    tokenizer, base = tokenizers.load(folder), hub.load(folder, device=run.device)
    context = base.config.max_seq_len
    length = config.length or int(context * config.factor)
    chronicles = _long.Chronicles(tokenizer, length)
    model = extend(copy.deepcopy(base), config.way, config.factor)
    set_attend(model, attend_of(config.pattern, length, config.width))
    rows = range(config.documents)
    sides = {"as it was": base, config.way: model}
    found = {name: _long.judge(side, chronicles, rows) for name, side in sides.items()}
    run.say(f"{config.steps} updates on rows of {length:,} tokens, {context} before; {config.pattern}")
    fit(model, chronicles, config, run)
    found[f"{config.way}, trained"] = _long.judge(model.eval(), chronicles, rows)
    size, context = max(8, length // 32), min(context, length // 2)
    metrics = report(found, context, size, run.say)
    run.say(f"picture: {plots.save(draw(found, context, size), run.folder / 'long.png')}")
    card = {"made_by": "project20_sparse_attention", "command": " ".join(sys.argv), "config": asdict(config),
            "base": str(folder), "metrics": metrics}  # fmt: skip
    for place in [run.folder / "model", *([models() / "long"] if config.save else [])]:
        hub.save(model, place, tokenizer=tokenizer, card=card)
        run.say(f"saved: {place}")
    run.finish(metrics, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
