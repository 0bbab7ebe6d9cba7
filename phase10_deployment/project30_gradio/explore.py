"""See and break: many updates or few, what settings do to entropy, prefixes that hold, cuts; and each tab.

Every experiment prints what it found; most save a picture. `--parts pages` takes the lesson's screenshots.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see, _shots
from ._lab import Lab

EXPERIMENTS = {
    "updates": _see.updates, "entropy": _see.entropy_map, "turns": _see.turns, "passages": _see.passages,
    "pages": _shots.pages, "zero": _break.zero, "overflow": _break.overflow,
    "injection": _break.injection}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of the model; empty: models/sft, or a tiny one made now."""
    tokens: int = 2000
    """Of the longest answer whose updates are counted."""
    turns: int = 24
    """Of a conversation."""
    questions: int = 100
    """Of each kind, for retrieval."""
    draws: int = 20
    """How often something is drawn."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        demand(min(self.tokens, self.turns, self.questions, self.draws) >= 2,
               "tokens, turns, questions and draws must be at least 2")  # fmt: skip


PRESETS = {
    "smoke": Config(tokens=60, turns=6, questions=4, draws=3),
    "cpu": Config(),
    "gpu": Config(draws=100),
}


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS))


if __name__ == "__main__":
    script(main, PRESETS)
