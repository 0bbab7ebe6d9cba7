"""See and break: a step's kernels on a clock, bytes before and after, memory; sums in other orders, breaks.

Every experiment prints what it found and saves a picture. `--parts traffic` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see

EXPERIMENTS = {
    "timeline": _see.timeline, "traffic": _see.traffic, "memory": _see.memory, "onnx": _see.onnx,
    "order": _break.order, "breaks": _break.breaks}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    prompt: int = 64
    """Tokens before the step that is looked at."""
    tokens: int = 2048
    """Tokens of a batch, in traffic and memory."""
    vocabulary: int = 10_000
    """Classes of the loss in memory."""
    widest: int = 65_536
    """Numbers of the longest sum in order."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        demand(min(self.prompt, self.vocabulary) >= 1, "prompt and vocabulary must be at least 1")
        demand(self.tokens >= 16 and self.widest >= 64, "tokens must be at least 16, and widest at least 64")


PRESETS = {"smoke": Config(prompt=4, tokens=32, vocabulary=50, widest=256),
           "cpu": Config(),
           "gpu": Config(tokens=8192)}  # fmt: skip


class Lab(explore.Album):
    """What an experiment needs of the run."""

    def __init__(self, config, run):
        self.config, self.run, self.device, self.say = config, run, run.device, run.say


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS))


if __name__ == "__main__":
    script(main, PRESETS)
