"""See and break: who has which block, what is wasted and what is shared; and six ways to lose it.

Every experiment prints what it found; most save a picture. `--parts film` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "film": _see.film, "waste": _see.waste, "sizes": _see.sizes, "sharing": _see.sharing, "fork": _see.fork,
    "torn": _break.torn, "uncounted": _break.uncounted, "leak": _break.leak, "twice": _break.twice,
    "moved": _break.moved, "mixed": _break.mixed}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    context: int = 1024
    """The longest text that may come, in tokens."""
    size: int = 16
    """Tokens a block."""
    rows: int = 8
    """How many texts of the longest length the memory could hold."""
    requests: int = 120
    """Texts that are served to see the waste."""
    median: int = 64
    """Tokens of the middle answer; lengths are log-normal with sigma 1."""
    frames: int = 200
    """Pictures of the film, at most: each takes a while to draw."""
    seed: int = 0
    """Of the texts."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if min(self.size, self.rows, self.requests, self.median, self.frames) < 1:
            raise UserError("size, rows, requests, median and frames must be at least 1")
        if self.context < 80:
            raise UserError(f"a context of {self.context} is too short for prompts of 40: at least 80")


PRESETS = {
    "smoke": Config(context=96, size=4, rows=3, requests=12, median=8, frames=5),
    "cpu": Config(),
    "gpu": Config(context=2048, rows=16, requests=400, median=128)}  # fmt: skip


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS))


if __name__ == "__main__":
    script(main, PRESETS)
