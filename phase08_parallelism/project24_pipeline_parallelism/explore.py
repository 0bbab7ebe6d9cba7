"""See and break pipelines: schedules drawn, laid over what two processes did, and four things gone wrong.

Virtual ranks are threads of this process; where time is measured, ranks are processes. `--parts` does some.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "schedules": _see.schedules,
    "measured": _see.measured,
    "scale": _see.scale,
    "memory": _see.memory,
    "micro": _break.micro,
    "unbalanced": _break.unbalanced,
    "stash": _break.stash,
    "copies": _break.copies,
}


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    steps: int = 120
    """Updates of each small training."""
    d_model: int = 64
    """Numbers per token of the small model."""
    context: int = 64
    """Bytes of a row of the small model."""
    batch_size: int = 4
    """Rows of an update."""
    learning_rate: float = 3e-3
    """Of the small trainings."""
    width: int = 384
    """Numbers per token of the model that is timed."""
    length: int = 256
    """Bytes of a row of the model that is timed."""
    micro: int = 8
    """Micro-batches of the run that is drawn."""
    repeats: int = 5
    """Runs of each that is timed."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""
    seed: int = 1337
    """Of the weights."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        least = min(self.steps, self.batch_size, self.micro, self.repeats, self.context, self.length)
        demand(least >= 1, "steps, batch_size, micro, repeats, context and length must be at least 1")
        demand(self.d_model % 8 == 0 and self.width % 8 == 0, "d_model and width must be multiples of 8")
        demand(self.steps * self.batch_size >= 8, "eight rows are needed: more steps, or rows of an update")


PRESETS = {
    "smoke": Config(steps=4, d_model=16, context=8, batch_size=2, width=32, length=16, micro=4, repeats=1),
    "cpu": Config(),
    "gpu": Config(),
}


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
