"""See and break: parts and their weights, memory against chunks, waves of shares; merges that are no merge.

Every experiment prints what it found and saves a picture. `--parts memory` does that one only.
"""

from dataclasses import dataclass

import torch

from common import hub, profiling
from common import tokenizer as tokenizers
from common.cli import chain, explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see

EXPERIMENTS = {
    "parts": _see.parts_of, "memory": _see.memory, "length": _see.length, "waves": _see.waves,
    "bandwidth": _see.bandwidth, "average": _break.average, "overflow": _break.overflow, "one": _break.one,
    "many": _break.many}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    tokens: int = 2048
    """Tokens of the row that is cut into chunks."""
    longest: int = 4096
    """Tokens of the longest row in length; the matrix of 4,096 takes some 0.4 GB for both heads."""
    cache: int = 65_536
    """Keys of the longest cache."""
    head_dim: int = 64
    """Numbers to a head."""
    max_tokens: int = 40
    """New tokens of each text."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        demand(min(self.head_dim, self.max_tokens) >= 1, "head_dim and max_tokens must be at least 1")
        demand(min(self.tokens, self.longest, self.cache) >= 64,
               "tokens, longest and cache must be at least 64")  # fmt: skip


PRESETS = {"smoke": Config(tokens=64, longest=64, cache=128, head_dim=16, max_tokens=2), "cpu": Config(),
           "gpu": Config(tokens=8192, longest=16_384, cache=262_144)}  # fmt: skip


class Lab(explore.Album):
    """What an experiment needs of the run: sizes, a device, a place for its picture."""

    def base(self):
        """(the base model, its tokenizer)"""
        folder = chain.find("base", self.config.model, say=self.say)
        return hub.load(folder, device=self.device), tokenizers.load(folder)

    def peak(self, call):
        """Megabytes that the call holds at most."""
        return (profiling.peak_of(call, self.device) or 0) / 1e6

    def milliseconds(self, call, seconds=0.2):
        """The shortest of some runs; a run goes before, so that everything is warm."""
        call()
        return profiling.shortest(call, self.device, seconds) * 1e3

    def powers(self, first, last):
        """first, 2 first, 4 first … up to last."""
        return [first << i for i in range((last // first).bit_length())]

    def reading(self):
        """Bytes/s that this machine reads at best."""
        x = torch.ones((64 if self.config.cache > 1000 else 4) * 2**18, device=self.device)
        return x.nbytes / profiling.shortest(x.sum, self.device, 0.5)


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS))


if __name__ == "__main__":
    script(main, PRESETS)
