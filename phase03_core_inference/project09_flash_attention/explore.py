"""See and break: the tiles as a film, memory and time against length, the roofline, what each part is for.

Every experiment prints what it found and saves a picture. `--parts memory` does that one only.
"""

from dataclasses import dataclass

from common import plots, profiling
from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _see

EXPERIMENTS = {
    "tiles": _see.tiles, "memory": _see.memory, "roofline": _see.roofline, "training": _break.training,
    "rescale": _break.rescale, "maximum": _break.maximum, "edge": _break.edge}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    tiles: int = 4
    """Tiles along each side of the film."""
    longest: int = 4096
    """Tokens of the longest row in memory and roofline; the matrix of 4,096 takes some 2 GB."""
    heads: int = 8
    """Query heads, and key heads, in memory and roofline."""
    head_dim: int = 64
    """Numbers to a head in memory and roofline."""
    steps: int = 200
    """Updates of each small training."""
    characters: int = 400_000
    """Characters of TinyTown to train on."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if min(self.tiles, self.heads, self.head_dim, self.steps) < 1:
            raise UserError("tiles, heads, head_dim and steps must be at least 1")
        if self.longest < 64 or self.characters < 10_000:
            raise UserError("longest must be at least 64, and characters at least 10,000")


PRESETS = {"smoke": Config(tiles=2, longest=64, heads=2, head_dim=16, steps=2, characters=20_000),
           "cpu": Config(),
           "gpu": Config(longest=8192, heads=4)}  # fmt: skip


class Lab(explore.Album):
    """What an experiment needs of the run: sizes, a device, a place for its picture."""

    def lengths(self):
        """Powers of two up to the longest, five of them at most."""
        return [self.config.longest >> i for i in range(4, -1, -1) if self.config.longest >> i >= 32]

    def ceilings(self):
        """What this machine can do at best; short rows do not wait for large matrices to say so."""
        small = {} if self.config.longest >= 1024 else {"size": 256, "megabytes": 16}
        return profiling.ceilings(self.device, seconds=0.3, **small)

    def animate(self, draw, frames, name, *, seconds):
        self.keep(plots.animate(draw, frames, self.run.folder / name, seconds=seconds))


def main(config, run):
    lab = Lab(config, run)
    run.finish(explore.each(lab, EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
