"""Train who guesses: a small draft model on what the base writes, or heads beside the base.

A draft of one layer takes some minutes on two cores, half of them for the text that it learns. It is saved
as models/draft, heads as models/heads, where `generate` and `explore` find them.
"""

import sys
from dataclasses import asdict, dataclass
from typing import Literal

from common import hub, tokenizer
from common.cli import chain
from common.cli.paths import models
from common.cli.script import script
from common.errors import demand

from . import _fit, _pair


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    kind: Literal["draft", "heads"] = "draft"
    """draft: a small model of its own; heads: several tokens ahead from the model's hidden state."""
    tokens: int = 1_000_000
    """Tokens to train on."""
    text: Literal["own", "corpus"] = "own"
    """What it learns from: own, what the model itself writes; corpus, what the model once read."""
    answers: int = 2048
    """Of own text: how many, behind beginnings of the first corpus's documents."""
    new: int = 160
    """Of own text: tokens that the model writes of each at most."""
    corpus: str = "tinytown,python-manual"
    """Corpora to read, with commas between; best what the model has read."""
    characters: int = 4_000_000
    """Of the corpora: characters of the first of them; each other adds an eighth of that."""
    n_layer: int = 1
    """Layers of a draft."""
    n_head: int = 4
    """Its heads."""
    d_model: int = 96
    """Its width."""
    d_ff: int = 256
    """Numbers inside its feed-forward."""
    heads: int = 4
    """How many heads, so how many tokens ahead."""
    context: int = 128
    """Tokens in a row of a batch at most."""
    batch_size: int = 16
    """Rows in an update."""
    learning_rate: float = 6e-3
    """Highest size of an update; it warms up over a twentieth of the run and falls to a twentieth of
    itself."""
    save: bool = True
    """Save it as models/draft or models/heads."""
    seed: int = 0
    """Of the first weights."""

    def __post_init__(self):
        for name in ("tokens", "answers", "new", "characters", "heads", "batch_size"):
            demand(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: it must be at least 1")
        demand(self.context >= 8, f"context is {self.context}: it must be at least 8")


PRESETS = {
    "smoke": Config(answers=24, new=40, tokens=2_000, characters=12_000, d_model=16, d_ff=24, n_head=2,
                    heads=2, context=32, batch_size=4, save=False),
    "cpu": Config(),
    "gpu": Config(tokens=40_000_000, answers=40_000, characters=40_000_000, d_model=256, d_ff=688,
                  context=256, batch_size=128, learning_rate=3e-3),
}  # fmt: skip


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model, words = hub.load(folder, device=run.device), tokenizer.load(folder)
    made, loss = _fit.fit(config.kind, model, words, config, run.device, run.folder, resume=run.resumed,
                          say=run.say)  # fmt: skip
    weights = sum(p.numel() for p in made.parameters())
    large = sum(p.numel() for p in model.parameters())
    run.say(f"{config.kind}: {weights:,} weights for a model of {large:,}, {loss:.3f} nats on text held out")
    card = {"made_by": "project11_speculative_decoding", "command": " ".join(sys.argv),
            "config": asdict(config), "model": folder.name, "val_loss": loss}  # fmt: skip
    for place in [run.folder / "model", *([models() / config.kind] if config.save else [])]:
        _pair.save(config.kind, made, model, words, place, card)
        run.say(f"saved: {place}")
    run.finish({"val_loss": loss, "parameters": weights}, corpus=config.corpus)


if __name__ == "__main__":
    script(main, PRESETS)
