"""Quantise a model, see what that costs, save it: a folder that loads and serves, or a file for others.

`./thirty chat --model FOLDER` and `./thirty run 14 --model FOLDER` take the folder as they take any other.
"""

import time
from dataclasses import dataclass

from common import hub, plots
from common.cli.script import script
from common.errors import UserError, demand

from . import _gguf, _lab, _onnx
from .rtn import BITS

# What an export needs: (bits, group, bits of the tables).
EXPORTS = {"q4_0": (4, 32, 4), "q8_0": (8, 32, 8), "onnx": (8, 0, 8)}


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    method: str = "gptq"
    """How codes are chosen: rtn, gptq or awq."""
    bits: int = 4
    """Bits of a weight: 8, 4, 3 or 2."""
    group: int = 128
    """Weights of a row that share a step; 0: the whole row."""
    symmetric: bool = True
    """Whether code 0 stands for 0; otherwise each group has a zero point."""
    tables: int = 8
    """Bits of embedding and head, rounded to nearest; 0 leaves them in floats."""
    windows: int = 32
    """Texts to calibrate on."""
    length: int = 256
    """Tokens of each."""
    judged: int = 16
    """Texts, of the model's whole context, to measure perplexity by."""
    exports: tuple[str, ...] = ()
    """Also write model.gguf (q8_0 or q4_0) or model.onnx (onnx)."""

    def __post_init__(self):
        _lab.method(self.method)
        for name in self.exports:
            if name not in EXPORTS:
                raise UserError(f"{name} is no export: there are {', '.join(EXPORTS)}")
            bits, group, tables = EXPORTS[name]
            fits = (self.bits, self.group, self.tables, self.symmetric) == (bits, group, tables, True)
            demand(fits, f"{name} needs --bits {bits} --group {group} --tables {tables} --symmetric")
        for bits in (self.bits, self.tables or BITS[0]):
            demand(bits in BITS, f"codes have {', '.join(map(str, BITS))} bits, not {bits}")
        demand(self.group >= 0, f"a group holds at least one weight, not {self.group}; 0: a whole row")
        if min(self.windows, self.length, self.judged) < 1:
            raise UserError("the calibration set is empty: windows, length and judged must be at least 1")


PRESETS = {"smoke": Config(bits=8, group=0, windows=2, length=24, judged=2), "cpu": Config(),
           "gpu": Config(windows=128, length=512)}  # fmt: skip


def export(model, folder, config, run):
    """Files for other programs, beside the folder."""
    for name in config.exports:
        path = run.folder / ("model.onnx" if name == "onnx" else "model.gguf")
        onnx = name == "onnx"
        written = _onnx.write(model, path) if onnx else _gguf.write(model, path, name, folder=folder)
        run.say(f"{name}: {written}, {written.stat().st_size / 1e6:.2f} MB")


def picture(sizes, worse, path):
    """What the folder holds, before and after, and what it cost."""
    fig, ((left, right),) = plots.figure(1, 2, width=8.5, height=3)
    for ax, values, label in ((left, sizes, "MB, floats at 16 bits"), (right, worse, "perplexity")):
        drawn = ax.barh(list(values), list(values.values()), color=plots.COLOURS[:2])
        ax.bar_label(drawn, fmt="%.3f", padding=4, fontsize=11)
        ax.set(xlabel=label)
        ax.margins(x=0.25)
        ax.invert_yaxis()
    right.set_yticks([])
    return plots.save(fig, path)


def main(config, run):
    folder, model, tokenizer = _lab.plain_model(config.model, run.say, run.device)
    judged = _lab.texts(tokenizer, config.judged, model.config.max_seq_len, _lab.HELD_OUT)
    batches = _lab.texts(tokenizer, config.windows, min(config.length, model.config.max_seq_len))
    run.say(f"{folder.name}: {config.method}, {config.bits} bits, "
            f"{f'groups of {config.group}' if config.group else 'a row is a group'}")
    began = time.perf_counter()
    made = _lab.quantised(model, batches, config.method, config.bits, config.group or None, config.symmetric,
                          config.tables or None)  # fmt: skip
    seconds, saved = time.perf_counter() - began, run.folder / "model"
    hub.save(made, saved, tokenizer=tokenizer, card={"made_by": _lab.NAME, "method": config.method,
             "from": folder.name, "calibration": f"{len(batches)} windows of TinyTown"})  # fmt: skip
    again = _lab.load(saved, run.device)
    before, after = _lab.perplexity(model, judged), _lab.perplexity(again, judged)
    halves, held = _lab.bytes_of(model), _lab.bytes_of(again)
    run.say(f"perplexity {before:.4f} before, {after:.4f} after, {seconds:.1f} s of work")
    run.say(f"{halves / 1e6:.2f} MB at 16 bits, {held / 1e6:.2f} MB now: {halves / held:.2f} times smaller")
    run.say(f"saved: {saved} ({_lab.file_bytes(saved) / 1e6:.2f} MB; {_lab.described(saved)})")
    export(again, saved, config, run)
    said = picture({"before": halves / 1e6, "after": held / 1e6}, {"before": before, "after": after},
                   run.folder / "cost.png")  # fmt: skip
    run.say(f"picture: {said}")
    run.finish({"perplexity, before": before, "perplexity": after, "times smaller": halves / held,
                "bytes": float(_lab.file_bytes(saved))}, corpus="tinytown")  # fmt: skip


if __name__ == "__main__":
    script(main, PRESETS)
