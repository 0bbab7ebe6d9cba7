"""See and break: where gradients lie, how the scale moves, what 8 bits look back at; three ways to fail.

Every experiment prints what it found and saves a picture. `--parts scale` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _see
from ._lab import Town, model_of

EXPERIMENTS = {"gradients": _see.gradients, "scale": _see.scale, "amax": _see.amax,
               "unscaled": _break.unscaled, "norms": _break.norms, "static": _break.static}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    steps: int = 120
    """Updates of each small training."""
    n_layer: int = 4
    """Blocks of the small model."""
    d_model: int = 64
    """Numbers per token; a multiple of 8."""
    context: int = 64
    """Bytes that the model sees at once."""
    characters: int = 200_000
    """Characters of TinyTown to train on."""
    seed: int = 1337
    """Start of the random numbers: the weights."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if min(self.steps, self.n_layer, self.context) < 1 or self.d_model < 8 or self.d_model % 8:
            raise UserError("steps, n_layer and context must be at least 1, d_model a multiple of 8")
        if self.characters < 100 * self.context:
            raise UserError(f"characters is {self.characters}: give at least a hundred times the context")


PRESETS = {"smoke": Config(steps=6, n_layer=2, d_model=32, context=32, characters=20_000), "cpu": Config(),
           "gpu": Config(steps=1000, n_layer=8, d_model=512, context=256, characters=4_000_000)}  # fmt: skip


class Lab(explore.Album):
    """What an experiment needs of the run: models, text, a place for its picture."""

    def __init__(self, config, run):
        super().__init__(config, run)
        self.town = Town(config.characters, config.context, 8, run.device)

    def model(self):
        """The same new model each time."""
        return model_of(self.config, self.run.device)


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
