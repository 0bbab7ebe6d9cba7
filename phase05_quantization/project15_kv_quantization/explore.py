"""See and break: who is loud, which way a scale should run, what rounding costs; and six ways to lose it.

Every experiment prints what it found; most save a picture. `--parts outliers` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "outliers": _see.outliers, "axes": _see.axes, "position": _see.position, "bits": _see.bits,
    "memory": _see.memory, "recall": _see.recall, "integers": _break.integers, "tensor": _break.tensor,
    "rope": _break.rope, "stale": _break.stale, "window": _break.window, "edges": _break.edges}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of the model that reads; empty: models/base, or a tiny one made now."""
    rows: int = 16
    """Stretches of unseen text."""
    context: int = 512
    """Tokens of each; fewer where the model's context is shorter."""
    windows: tuple[int, ...] = (1, 16, 32, 64, 128)
    """Windows to try, in tokens."""
    far: int = 2048
    """How many tokens back a fact is asked for."""
    facts: int = 16
    """How many facts."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if min(self.rows, self.facts, *self.windows) < 1 or not self.windows:
            raise UserError("rows, facts and windows must be at least 1")
        if self.context < 192 or self.far < 128:
            raise UserError(f"a context of {self.context} and facts {self.far} tokens back are too short for "
                            "groups of 64 and windows of 128: at least 192 and 128")  # fmt: skip


PRESETS = {
    "smoke": Config(rows=1, context=192, windows=(1, 32), far=192, facts=2),
    "cpu": Config(),
    "gpu": Config(rows=64, far=4096, facts=32)}  # fmt: skip


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
