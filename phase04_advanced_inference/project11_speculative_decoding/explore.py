"""See and break: what a round brings, what it costs, when it loses; and four ways to get it wrong.

Every experiment prints what it found; those that see save a picture. `--parts rounds` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _see, train
from ._pair import Pair

EXPERIMENTS = {
    "rounds": _see.rounds, "timeline": _see.timeline, "k": _see.by_k, "drafts": _see.drafts,
    "copy": _see.copy, "batch": _see.batch, "longest": _break.longest, "rollback": _break.rollback,
    "bonus": _break.bonus, "stranger": _break.stranger}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    draft: str = ""
    """Folder or name of a draft model; empty: models/draft, and where there is none, one trained now."""
    prompts: int = 6
    """Pages that are gone on with."""
    prompt: int = 32
    """Tokens of each of them."""
    new: int = 128
    """Tokens after each of them."""
    k: int = 4
    """Guesses a round, where they are not what is varied."""
    ks: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12)
    """Guesses a round, where they are."""
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Texts in a forward, where they are varied."""
    draws: int = 20_000
    """Texts drawn to count with."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        numbers = (self.prompts, self.prompt, self.new, self.k, self.draws, *self.ks, *self.batches)
        if not self.ks or not self.batches or min(numbers) < 1:
            raise UserError("prompts, prompt, new, k, ks, batches and draws must be at least 1")


PRESETS = {"smoke": Config(prompts=1, prompt=6, new=12, k=2, ks=(1, 3), batches=(1, 2), draws=400),
           "cpu": Config(),
           "gpu": Config(prompts=16, new=256, batches=(1, 4, 16, 64, 128))}  # fmt: skip


def main(config, run):
    pair = Pair(config.model, config.draft, train.PRESETS[run.preset], run.device, run.say)
    run.finish(explore.each(_see.Lab(config, run, pair), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
