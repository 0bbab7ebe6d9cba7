"""See and break: races between objectives, optimisers, sizes and texts, and what happens when a part is gone.

Every experiment trains models of some ten thousand weights on TinyTown, prints what it found and saves a
picture. `--parts scaling` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _compare, _knowledge, _texts
from ._lab import Lab

EXPERIMENTS = {
    "ablations": _break.ablations, "half": _break.half, "padding": _break.padding,
    "objectives": _compare.objectives, "optimizers": _compare.optimizers, "scaling": _compare.scaling,
    "texts": _texts.texts, "sources": _texts.sources,
    "knowledge": _knowledge.knowledge}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    characters: int = 1_500_000
    """Characters of TinyTown to write."""
    vocab_size: int = 512
    """Ids of the small tokenizer."""
    steps: int = 400
    """Updates of each small training."""
    seeds: int = 1
    """Trainings of each optimiser at each rate, from different starts."""
    knowledge: int = 1_000_000
    """Tokens of each training of the part knowledge."""
    judged: int = 20_000
    """Held-out tokens to judge on."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if min(self.steps, self.seeds, self.judged, self.knowledge) < 1 or self.characters < 50_000:
            raise UserError("steps, seeds, knowledge and judged must be at least 1, characters 50,000")


PRESETS = {"smoke": Config(characters=60_000, vocab_size=300, steps=3, judged=1000, knowledge=8_000),
           "cpu": Config(), "gpu": Config(steps=2000, seeds=3)}  # fmt: skip


def main(config, run):
    lab = Lab(config, run)
    run.say(
        f"TinyTown in small: {len(lab.ids):,} tokens of {config.vocab_size} ids, {len(lab.valid):,} held out"
    )
    run.finish(explore.each(lab, EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
