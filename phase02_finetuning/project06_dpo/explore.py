"""See and break: what preferences change, KL against reward, and what goes wrong when a part is gone.

Every experiment starts from models/sft (or a tiny stand-in), tunes it for some updates, prints what it found
and saves a picture. `--parts hacking` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "methods": _see.methods, "frontier": _see.frontier, "reinforce": _see.reinforce,
    "reference": _break.reference, "beta": _break.beta, "flipped": _break.flipped, "length": _break.length,
    "hacking": _break.hacking}  # fmt: skip


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/sft, and where there is none, a tiny one made now."""
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    pairs: int = 3000
    """Pairs to train on."""
    held_out: int = 150
    """Pairs and questions to judge on."""
    warm: int = 200
    """Updates of plain fine-tuning before, once for all experiments."""
    steps: int = 60
    """Updates of each preference tuning."""
    phases: int = 40
    """Phases of each reinforcement, of two updates."""
    prompts: int = 8
    """Questions of a phase."""
    group: int = 4
    """Answers to each of them."""
    max_tokens: int = 40
    """Tokens of an answer at most."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""
    seed: int = 1337
    """Start of the random numbers."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        least = min(self.pairs, self.held_out, self.steps, self.phases, self.prompts)
        demand(least >= 1, "pairs, held_out, steps, phases and prompts must be at least 1")


PRESETS = {
    "smoke": Config(pairs=48, held_out=8, warm=2, steps=2, phases=2, prompts=2, group=2, max_tokens=8),
    "cpu": Config(),
    "gpu": Config(pairs=20_000, held_out=1000, steps=600, phases=200, prompts=32, group=8),
}


def main(config, run):
    lab = Lab(config, run)
    run.finish(explore.each(lab, EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
