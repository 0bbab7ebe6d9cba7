"""See and break: where parameters are, which layers are alike, low ranks; false ties, sharing untrained.

Every experiment prints what it found and saves a picture. `--parts parts` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "parts": _see.parts, "vocabulary": _see.vocabulary, "likeness": _see.likeness, "ranks": _see.ranks,
    "ties": _break.ties, "unlike": _break.unlike, "cold": _break.cold}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    steps: int = 60
    """Updates of each training."""
    learning_rate: float = 3e-3
    """Highest size of an update of a new model; a trained one takes a third of it."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 128
    """Tokens of a row."""
    judged: int = 3_000
    """Tokens of unseen pages to judge by."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""
    seed: int = 1337
    """Of the order of the text."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        demand(min(self.steps, self.batch_size, self.context) >= 1,
               "steps, batch_size and context must be at least 1")  # fmt: skip
        demand(self.judged > 8 * self.context, "judged must be more tokens than eight contexts hold")


PRESETS = {
    "smoke": Config(steps=3, batch_size=2, context=24, judged=220),
    "cpu": Config(),
    "gpu": Config(steps=1000, batch_size=32, context=512, judged=200_000),
}


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
