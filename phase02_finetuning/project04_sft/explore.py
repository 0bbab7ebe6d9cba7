"""See and break: before and after, what the loss counts, how one asks, which rows, what is forgotten.

Every experiment tunes copies of the base model on some rows of TinyTown, prints what it found and saves a
picture. `--parts template` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "before_after": _see.before_after, "masking": _break.masking, "template": _break.template,
    "modes": _break.modes, "data": _break.data, "forgetting": _break.forgetting, "curves": _see.curves,
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a base model; empty: models/base, and where there is none, a tiny one made now."""
    tuned: str = ""
    """Folder of a tuned model, for before_after; empty: models/sft, else a tiny one made now."""
    rows: int = 4_000
    """Rows of TinyTown that each training reads."""
    epochs: float = 1.0
    """How often it reads them."""
    batch_size: int = 32
    """Examples in an update."""
    learning_rate: float = 5e-4
    """Highest size of an update."""
    judged: int = 20
    """Held-out rows of each of seven families."""
    text: int = 8_000
    """Tokens of running text by which forgetting is measured."""
    sizes: tuple[int, ...] = (125, 250, 500, 900, 2000, 4000)
    """Numbers of rows for the learning curves."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        demand(min(self.rows // 8, self.judged, self.batch_size) >= 1, "rows must be at least 8, others 1")
        demand(self.sizes and self.sizes[0] <= self.rows, "the first of sizes must not be above rows")


PRESETS = {"smoke": Config(rows=16, batch_size=8, judged=1, text=300, sizes=(8, 16)), "cpu": Config(),
           "gpu": Config(rows=40_000, judged=100, text=100_000, learning_rate=3e-4)}  # fmt: skip


def main(config, run):
    lab = Lab(config, run)
    run.finish(explore.each(lab, EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
