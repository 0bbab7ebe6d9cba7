"""See and break: a staircase and its pretended slope, quality against bits, steps that move; three mistakes.

Every experiment prints what it found and saves a picture. `--parts bits` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand
from phase05_quantization.project14_ptq.rtn import BITS

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "staircase": _see.staircase, "bits": _see.bits, "scales": _see.scales, "ranges": _see.ranges,
    "zero": _break.zero, "batch": _break.batch, "rate": _break.rate}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    bits: tuple[int, ...] = (8, 4, 3, 2)
    """Bits of a weight, where they are varied."""
    steps: int = 150
    """Updates of each training."""
    learning_rate: float = 5e-4
    """Highest size of an update."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 256
    """Tokens of a row."""
    judged: int = 20_000
    """Tokens of unseen pages to judge by."""
    asked: int = 100
    """Sentences about the town to complete."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""
    seed: int = 1337
    """Of the order of the text."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        least = min(self.steps, self.batch_size, self.context, self.asked)
        demand(self.bits and set(self.bits) <= set(BITS), f"bits are some of {BITS}, not {self.bits}")
        demand(least >= 1, "steps, batch_size, context and asked must be at least 1")
        demand(self.judged > 8 * self.context, "judged must be more tokens than eight contexts hold")


PRESETS = {
    "smoke": Config(bits=(8, 2), steps=3, batch_size=2, context=24, judged=220, asked=1),
    "cpu": Config(),
    "gpu": Config(steps=2000, batch_size=32, context=512, judged=200_000, asked=400),
}


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
