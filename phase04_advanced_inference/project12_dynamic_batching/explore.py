"""See and break: who sits in which slot, who waits how long, and seven ways in which an engine goes wrong.

Every experiment prints what it found; most save a picture. `--parts gantt` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _load, _see
from ._lab import Lab

EXPERIMENTS = {
    "gantt": _see.gantt, "fairness": _see.fairness, "memory": _see.memory, "waiting": _load.waiting,
    "load": _load.load, "chunks": _load.chunks, "host": _load.host, "blocking": _break.blocking,
    "starvation": _break.starvation, "zero": _break.zero, "overcommit": _break.overcommit,
    "padding": _break.padding}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of the model whose texts are broken; empty: models/base, or a tiny one made now."""
    n_layer: int = 6
    """Layers of the untrained model that is timed."""
    d_model: int = 256
    """Its width; heads are 32 wide."""
    vocab_size: int = 10_000
    """Its ids."""
    context: int = 512
    """Its longest text, in tokens."""
    slots: int = 8
    """Requests that run at a time."""
    requests: int = 64
    """Requests in each run by the clock."""
    median: int = 16
    """Tokens of the middle answer; lengths are log-normal with sigma 1."""
    seed: int = 0
    """Of the requests."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if self.slots < 6 or self.requests < 4 or self.median < 4:
            raise UserError("slots must be at least 6, requests and median at least 4")
        if self.context < 8 * self.median:
            raise UserError(f"a context of {self.context} is too short where half of the answers are longer "
                            f"than {self.median}: at least {8 * self.median}")  # fmt: skip


PRESETS = {
    "smoke": Config(n_layer=2, d_model=64, vocab_size=97, context=64, slots=6, requests=8, median=4),
    "cpu": Config(),
    "gpu": Config(n_layer=12, d_model=768, vocab_size=50257, context=1024, slots=32,
                  requests=256)}  # fmt: skip


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
