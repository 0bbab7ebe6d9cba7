"""See and break: where tokens leave, what that costs and saves; and three ways to get it wrong.

Every experiment prints what it found and saves a picture. `--parts heat` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "heat": _see.heat, "curve": _see.curve, "clock": _see.clock, "guesses": _see.guesses, "batch": _see.batch,
    "prune": _see.prune, "fill": _break.fill, "picked": _break.picked,
    "untrained": _break.untrained}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model, with ways out or not; empty: models/base. One without gets them first."""
    page: int = 192
    """Tokens of a page that is read token by token."""
    context: int = 256
    """Tokens of a row that is judged, and of a prompt with what follows it."""
    judged: int = 5_000
    """Tokens of unseen pages to judge by."""
    threshold: float = 0.9
    """From where on the probe lets a token go, where that is not varied."""
    thresholds: tuple[float, ...] = (0.99, 0.97, 0.95, 0.9, 0.8, 0.6)
    """The same, where it is."""
    prompts: int = 4
    """Pages that are gone on with."""
    prompt: int = 32
    """Tokens of each of them."""
    new: int = 64
    """Tokens after each of them."""
    ks: tuple[int, ...] = (1, 2, 3, 4, 6)
    """Guesses a round."""
    few: int = 1024
    """How many ids guesses are made of."""
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Rows of a batch."""
    shares: tuple[float, ...] = (1.0, 0.7, 0.5, 0.3, 0.1)
    """Shares of a prompt that climb on."""
    follow: int = 32
    """Tokens after a pruned prompt."""
    leaving: float = 0.7
    """The share of tokens that leave at the first way out, where dice decide."""
    tolerance: float = 0.02
    """The share of tokens that may come out differently, as a calibrated threshold promises."""
    chance: float = 0.1
    """The chance with which it may break that promise."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        least = min(self.prompts, self.prompt, self.new, self.few, *self.ks, *self.batches, self.follow)
        demand(least >= 1, "prompts, prompt, new, few, ks, batches and follow must be at least 1")
        demand(self.page >= 8 and self.context > self.follow, "page is at least 8, and context above follow")
        demand(0 < self.tolerance < 1 and 0 < self.chance < 1, "tolerance and chance lie between 0 and 1")
        demand(0 <= self.leaving <= 1, "leaving is a share, from 0 to 1")


PRESETS = {
    "smoke": Config(page=12, context=24, judged=100, thresholds=(0.9, 0.2), prompts=1, prompt=6, new=5,
                    ks=(1, 2), few=40, batches=(1, 2), shares=(1.0, 0.5), follow=4, tolerance=0.3),
    "cpu": Config(),
    "gpu": Config(judged=100_000, prompts=32, new=256, batches=(1, 4, 16, 64)),
}  # fmt: skip


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
