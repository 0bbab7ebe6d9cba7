"""See and break tensor parallelism: the ring, its messages, memory by rank, and four things left out.

Virtual ranks are threads of this process; where messages are timed, ranks are processes. `--parts` does some.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "ring": _see.ring,
    "messages": _see.messages,
    "memory": _see.memory,
    "layouts": _see.layouts,
    "mistakes": _break.mistakes,
    "copies": _break.copies,
    "bias": _break.bias,
    "dropout": _break.dropout,
}


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    steps: int = 40
    """Updates of each small training."""
    d_model: int = 64
    """Numbers per token of the small model."""
    context: int = 64
    """Bytes of a row."""
    batch_size: int = 4
    """Rows of an update."""
    learning_rate: float = 3e-3
    """Of the small trainings."""
    megabytes: float = 16.0
    """Size of the tensor whose sum is drawn as messages."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""
    seed: int = 1337
    """Of the weights."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        demand(min(self.steps, self.batch_size) >= 1, "steps and batch_size must be at least 1")
        demand(
            self.d_model % 8 == 0 and self.context % 4 == 0,
            "d_model must be a multiple of 8, and context of 4: there are four ranks",
        )
        demand(self.megabytes > 0, "megabytes must be above 0")


PRESETS = {
    "smoke": Config(steps=2, d_model=16, context=16, batch_size=2, megabytes=0.1),
    "cpu": Config(),
    "gpu": Config(),
}


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
