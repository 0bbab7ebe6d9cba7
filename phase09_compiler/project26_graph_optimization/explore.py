"""See and break: the graph before and after, what each pass takes away, the stacks; what graphs do not bear.

Every experiment prints what it found; most save a picture. `--parts graph` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see
from ._lab import Lab
from .stacks import STACKS

EXPERIMENTS = {
    "graph": _see.graph, "counts": _see.counts, "source": _see.source, "time": _see.time,
    "stacks": _see.stacks, "shapes": _break.shapes, "operators": _break.operators,
    "cache": _break.cache}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    size: int = 256
    """Slots of the cache; half of them are filled."""
    seconds: float = 0.5
    """Seconds that each thing is timed for; the shortest time counts."""
    follow: int = 48
    """Tokens of the text by which stacks are timed and compared."""
    stacks: tuple[str, ...] = tuple(STACKS)
    """Which stacks to try; those that are not installed are named."""
    sizes: tuple[int, ...] = (64, 256, 512)
    """Lengths of caches, where these are compared; no longer than the model's context."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        strange = sorted(set(self.stacks) - set(STACKS))
        demand(not strange, f"no stack is called {', '.join(strange)}: there are {', '.join(STACKS)}")
        demand(self.size >= 8 and 4 <= self.follow <= self.size, "size is at least 8, follow from 4 to size")
        demand(min(self.sizes) >= 2 and self.seconds >= 0, "a cache has 2 slots at least, and time goes on")


PRESETS = {
    "smoke": Config(size=32, seconds=0.0, follow=6, stacks=("eager", "our passes"), sizes=(8, 16)),
    "cpu": Config(),
    "gpu": Config(),
}


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
