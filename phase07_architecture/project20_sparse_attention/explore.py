"""See and break: patterns and their reach, time against length, routing; sinks, passkeys, a longer context.

Every experiment prints what it found and saves a picture. `--parts masks` does that one only.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain, explore
from common.cli.paths import models
from common.cli.script import script
from common.errors import demand

from . import _break, _long, _see, rope_scaling

EXPERIMENTS = {
    "masks": _see.masks, "reach": _see.reach, "time": _see.time, "routing": _see.routing,
    "context": _break.context, "lengths": _break.lengths, "passkey": _break.passkey, "sinks": _break.sinks,
    "comb": _break.comb}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    reach: int = 256
    """Tokens of the picture of what layers can know of."""
    most: int = 16_384
    """Tokens of the longest row in time."""
    width: int = 256
    """Tokens of a window in time."""
    head_dim: int = 64
    """Numbers to a head in time."""
    comb: int = 16_384
    """Tokens of the row whose pairs are counted."""
    block: int = 16
    """Keys of a block in routing."""
    longest: int = 2048
    """Tokens of the rows in context."""
    documents: int = 3
    """Chronicles to judge by."""
    passkey: int = 64
    """Tokens of a row with a digit in it."""
    steps: int = 400
    """Updates of each small model that looks for a digit."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        least = min(self.width, self.head_dim, self.block, self.documents, self.steps)
        demand(least >= 1, "width, head_dim, block, documents and steps must be at least 1")
        demand(min(self.reach, self.most, self.comb, self.passkey) >= 16,
               "reach, most, comb and passkey are lengths of rows: at least 16")  # fmt: skip
        demand(self.longest >= 256, "longest must be at least 256: a chronicle with a question in it")


PRESETS = {
    "smoke": Config(reach=32, most=256, width=16, head_dim=16, comb=256, block=4, longest=512, documents=1,
                    passkey=16, steps=2),
    "cpu": Config(),
    "gpu": Config(most=65_536, longest=8192, documents=16, steps=1000),
}  # fmt: skip


class Lab(explore.Album):
    """What an experiment needs of the run: a model and its tokenizer, loaded when first asked for."""

    @cached_property
    def folder(self):
        return chain.find("base", self.config.model, say=self.run.say)

    @cached_property
    def base(self):
        return hub.load(self.folder, device=self.device)

    @cached_property
    def tokenizer(self):
        return tokenizers.load(self.folder)

    @property
    def context(self):
        """Tokens of the model's training rows, or half of the longest rows here, if that is less."""
        return min(self.base.config.max_seq_len, self.config.longest // 2)

    def text(self, number, length):
        """The first tokens of a chronicle, (length,)."""
        return _long.Chronicles(self.tokenizer, max(512, length)).row(number).ids[:length].to(self.device)

    def long_model(self):
        """{name: the long model of this project}, if it was made and has the base's tokenizer."""
        folder = models() / "long"
        if self.config.model or not (folder / "card.json").is_file():
            return {}
        restore = {"project20_sparse_attention": rope_scaling.restore}
        return {"trained on": hub.load(folder, device=self.device, restore=restore)}

    def lengths(self):
        """Powers of two up to the longest, five at most."""
        return [self.config.most >> i for i in range(4, -1, -1) if self.config.most >> i >= 16]


def main(config, run):
    torch.manual_seed(0)
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
