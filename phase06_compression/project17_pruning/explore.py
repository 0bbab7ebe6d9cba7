"""See and break: what zeros cost, which heads matter, what is fast; too much, too soon, the wrong heads.

Every experiment prints what it found; most save a picture. `--parts sparsity` does that one only.
"""

import shutil
from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand
from phase01_foundation.project03_pretrain.town import demand_context, ids_of

from . import _break, _lab, _see, _tune, magnitude

EXPERIMENTS = {
    "sparsity": _see.sparsity, "heads": _see.heads, "masks": _see.masks, "schedule": _see.schedule,
    "speed": _see.speed, "text": _see.text, "oneshot": _break.oneshot, "recovery": _break.recovery,
    "uniform": _break.uniform, "specialised": _break.specialised, "calibration": _break.calibration,
    "units": _break.units, "damaged": _break.damaged}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    shares: tuple[float, ...] = (0.3, 0.5, 0.6, 0.8)
    """Shares of the weights to remove, in the pictures that go through them."""
    steps: int = 48
    """Updates of each training."""
    learning_rate: float = 1e-3
    """Highest size of an update."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 256
    """Tokens of a row."""
    windows: int = 8
    """Texts that methods look at."""
    length: int = 256
    """Tokens of each."""
    judged: int = 8
    """Unseen texts, of the model's whole context, to measure perplexity by."""
    few: int = 2
    """Of these, where every head is closed once."""
    width: int = 2048
    """Outputs and inputs of the matrix that is timed."""
    rows: int = 16
    """Rows it is multiplied with."""
    prompt: str = "Mara lives in"
    """What the texts begin with."""
    tokens: int = 40
    """New tokens of each."""
    asked: int = 60
    """Sentences about the town to complete."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""
    seed: int = 1337
    """Of the order of the text."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        for share in self.shares:
            magnitude.demand_share(share)
        least = min(self.windows, self.length, self.judged, self.few, self.width, self.rows, self.tokens,
                    self.asked, self.steps, self.batch_size, self.context)  # fmt: skip
        demand(least >= 1, "windows, length, judged, few, width, rows, tokens, asked, steps, batch_size and "
               "context must be at least 1")  # fmt: skip
        demand(self.shares, "name at least one share to remove")


PRESETS = {
    "smoke": Config(shares=(0.3, 0.6), steps=3, batch_size=2, context=24, windows=2, length=24, judged=1,
                    few=1, width=64, rows=2, tokens=4, asked=1),
    "cpu": Config(),
    "gpu": Config(steps=600, batch_size=16, context=512, windows=64, judged=32, width=4096)}  # fmt: skip


class Lab(explore.Album):
    """The base model is never changed: each experiment works on copies."""

    def __init__(self, config, run):
        super().__init__(config, run)
        _, self.base, self.tokenizer = _lab.plain_model(config.model, run.say, "cpu")
        demand_context(self.base, config.context)
        most = self.base.config.max_seq_len
        self.batches = _lab.texts(self.tokenizer, config.windows, min(config.length, most))
        self.judged = _lab.texts(self.tokenizer, config.judged, most, _lab.HELD_OUT)

    def perplexity(self, model, texts=None):
        return _lab.perplexity(model, self.judged[:texts])

    def pruned(self, name, share, pattern=None):
        return _lab.pruned(self.base, self.batches, name, share, pattern)

    def plan(self, steps=None):
        c = self.config
        return _tune.Plan(steps or c.steps, c.learning_rate, c.batch_size, c.context, c.seed)

    def ids(self, plan):
        return ids_of(self.tokenizer, _lab.LEARN, plan.text)

    def fresh(self, name):
        """An empty folder for a training."""
        folder = self.run.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
