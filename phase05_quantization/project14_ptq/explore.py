"""See and break: weights and inputs, what a bit is worth, which matrix minds; and four ways to lose it all.

Every experiment prints what it found; most save a picture. `--parts bits` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError, demand

from . import _break, _lab, _see
from .rtn import BITS

EXPERIMENTS = {
    "weights": _see.weights, "inputs": _see.inputs, "bits": _see.bits, "layers": _see.layers,
    "kernels": _see.kernels, "text": _see.text, "tensor": _break.tensor, "calibration": _break.calibration,
    "tables": _break.tables, "outliers": _break.outliers, "damaged": _break.damaged}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    methods: tuple[str, ...] = ("rtn", "gptq", "awq")
    """The lines in the picture of bits."""
    widths: tuple[int, ...] = (8, 4, 3, 2)
    """Bits in it."""
    group: int = 0
    """Weights of a row that share a step; 0: the whole row."""
    windows: int = 16
    """Texts to calibrate on."""
    length: int = 256
    """Tokens of each."""
    judged: int = 16
    """Texts, of the model's whole context, to measure perplexity by."""
    shape: tuple[int, int] = (2048, 768)
    """Outputs and inputs of the matrix whose kernels are timed."""
    rows: tuple[int, ...] = (1, 4, 16, 64, 256)
    """Rows it is multiplied with."""
    prompt: str = "Mara lives in"
    """What the texts begin with."""
    tokens: int = 40
    """New tokens of each."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        for name in self.methods:
            _lab.method(name)
        known = set(self.widths) <= set(BITS)
        demand(known, f"codes have {', '.join(map(str, BITS))} bits, not {self.widths}")
        if min(self.windows, self.length, self.judged, self.tokens, *self.shape, *self.rows) < 1:
            raise UserError("windows, length, judged, tokens, shape and rows must be at least 1")


PRESETS = {
    "smoke": Config(methods=("rtn", "gptq"), widths=(8, 2), windows=2, length=24, judged=1, shape=(32, 64),
                    rows=(1, 4), tokens=4),
    "cpu": Config(),
    "gpu": Config(windows=64, judged=16)}  # fmt: skip


class Lab(explore.Album):
    """The base model is never changed: each experiment works on copies."""

    def __init__(self, config, run):
        super().__init__(config, run)
        self.group = config.group or None
        _, self.base, self.tokenizer = _lab.plain_model(config.model, run.say, "cpu")
        context = self.base.config.max_seq_len
        self.batches = _lab.texts(self.tokenizer, config.windows, min(config.length, context))
        self.judged = _lab.texts(self.tokenizer, config.judged, context, _lab.HELD_OUT)

    def perplexity(self, model, texts=None):
        return _lab.perplexity(model, self.judged[:texts])

    def quantised(self, method, bits, group=None):
        return _lab.quantised(self.base, self.batches, method, bits, group)


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
