"""See and break: what a cache saves, when, and at what price; and nine ways to get it wrong.

Every experiment prints what it found; those that see save a picture. `--parts length` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _groups, _see, _seven
from ._lab import Lab

EXPERIMENTS = {
    "theory": _see.theory, "length": _see.length, "view": _see.view, "modes": _see.modes,
    "groups": _groups.groups, "snippet": _break.snippet, "stale": _break.stale,
    "positions": _break.positions, "causal": _break.causal, "inactive": _break.inactive,
    "growth": _break.growth, "edges": _break.edges, "seven": _seven.seven}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of the model that writes; empty: models/base, or a tiny one made now."""
    n_layer: int = 4
    """Layers of the untrained model that is timed."""
    n_head: int = 6
    """Its query heads, and before grouping as many keys and values."""
    d_model: int = 384
    """Its width."""
    vocab_size: int = 10_000
    """Its ids."""
    context: int = 1024
    """Its longest text, in tokens."""
    prompts: tuple[int, ...] = (10, 50, 100, 200)
    """Lengths of the prompts of the two modes, in tokens."""
    each: int = 4
    """Prompts of each length."""
    new: int = 100
    """Tokens after each of them."""
    characters: int = 400_000
    """Characters of TinyTown to train the grouped models on."""
    steps: int = 600
    """Updates of the model with all its heads; its conversions get a tenth of them."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if not self.prompts or min(*self.prompts, self.each, self.new, self.steps) < 1:
            raise UserError("prompts, each, new and steps must be at least 1")
        if max(self.prompts, default=1) + self.new > self.context:
            raise UserError(f"{max(self.prompts)} + {self.new} tokens are more than the context of "
                            f"{self.context}: shorter prompts, or fewer new ones")  # fmt: skip


PRESETS = {
    "smoke": Config(n_layer=2, n_head=4, d_model=32, vocab_size=97, context=64, prompts=(3, 9), each=2, new=6,
                    characters=8_000, steps=4),
    "cpu": Config(),
    "gpu": Config(n_layer=12, n_head=12, d_model=768, vocab_size=50257, each=20, steps=2000)}  # fmt: skip


def main(config, run):
    lab = Lab(config, run)
    run.finish(explore.each(lab, EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
