"""See and break: loss against rank, the spectrum of what training adds, memory, and three mistakes.

Every experiment fine-tunes the base model (or a tiny one made now) on TinyTown's instructions for a short
while. `--parts rank` does that one only; `--publish` also puts the pictures into results/.
"""

from dataclasses import dataclass

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain, explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see

EXPERIMENTS = {"rank": _see.rank, "spectrum": _see.spectrum, "memory": _see.memory, "start": _break.start,
               "scale": _break.scale, "merge": _break.merge}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    steps: int = 150
    """Updates of each short training."""
    batch_size: int = 24
    """Examples in an update."""
    context: int = 192
    """Tokens in a row of a batch at most."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Ranks to compare."""
    rates: tuple[float, ...] = (3e-3, 1e-2)
    """Learning rates that each rank may try; every weight at once tries a fifth of each."""
    held_out: int = 230
    """Held-out rows to judge on."""
    rows: int = 4
    """Rows of the batch by which memory is measured."""
    layers: int = 12
    """Blocks of the model by which memory is measured; 12 of width 768 are GPT-2's 124M shape."""
    width: int = 768
    """Its width."""
    vocabulary: int = 50_304
    """Its vocabulary."""
    sides: tuple[str, ...] = tuple(_see.SIDES)
    """Whose memory is measured, each in a process of its own."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""
    seed: int = 1337
    """Start of the random numbers."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        least = min(self.steps, self.batch_size, self.held_out, self.rows, self.layers, *self.ranks)
        demand(least >= 1, "steps, batch_size, held_out, rows, layers and ranks start at 1")
        demand(not set(self.sides) - set(_see.SIDES), f"sides are some of {', '.join(_see.SIDES)}")
        demand(self.rates and min(self.rates) > 0, "rates must be above 0")


PRESETS = {
    "smoke": Config(steps=2, batch_size=4, context=48, ranks=(1, 2), rates=(5e-3,), held_out=8, rows=1,
                    layers=1, width=64, vocabulary=300, sides=("qlora",)),
    "cpu": Config(),
    "gpu": Config(steps=600, batch_size=96, context=512, held_out=920),
}  # fmt: skip


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    lab = _see.Lab(config, run, hub.load(folder, device=run.device), tokenizers.load(folder))
    run.finish(explore.each(lab, EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
