"""The same text from floats and from codes: do they agree, how fast, in how many bytes?

With --model and a folder that `quantize` saved, the text of that model, by the kernels of this machine.
"""

import copy
import time
from dataclasses import dataclass

from common import plots, tokenizer
from common.cli import chain
from common.cli.script import script
from common.errors import UserError
from common.generate import Sampling, generate

from . import _lab, gptq, integer, llm_int8, rtn


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model, quantised or not; empty: models/base, or a tiny one made now."""
    prompt: str = "Mara lives in"
    """The text to go on with."""
    max_tokens: int = 80
    """New tokens; fewer where the model's context is shorter."""
    group: int = 128
    """Weights of a row that share a step where there are 4 bits; 0: the whole row."""
    windows: int = 16
    """Texts to calibrate on."""
    judged: int = 8
    """Texts to measure perplexity by."""

    def __post_init__(self):
        if not self.prompt:
            raise UserError("the prompt is empty: give a word to begin with, --prompt Once")
        if min(self.max_tokens, self.windows, self.judged) < 1 or self.group < 0:
            raise UserError("max_tokens, windows and judged must be at least 1, and group at least 0")


PRESETS = {"smoke": Config(max_tokens=6, group=0, windows=2, judged=1), "cpu": Config(),
           "gpu": Config(max_tokens=300)}  # fmt: skip
FLOATS = "floats"


def variants(model, batches, group):
    """{name: a model} of the same weights."""
    def changed(change):
        return change(copy.deepcopy(model))

    found = {FLOATS: model,
             "8 bits": changed(lambda m: rtn.apply_to_tables(rtn.apply(m, 8), 8)),
             "8 bits, outliers in floats": changed(lambda m: llm_int8.plug(rtn.apply(m, 8))),
             "4 bits, nearest": changed(lambda m: rtn.apply(m, 4, group)),
             "4 bits, GPTQ": changed(lambda m: gptq.apply(m, batches, 4, group))}  # fmt: skip
    if model.norm.weight.device.type == "cpu":
        both = changed(lambda m: rtn.apply_to_tables(rtn.apply(m, 8), 8))
        found["8 bits, fastest kernels"] = integer.plug(both)
    return found


def text(model, words, config):
    """(ids, text, tokens/s), greedily, after two tokens that warm up."""
    ids = words.encode(config.prompt)
    for n in (2, config.max_tokens):
        began = time.perf_counter()
        answer = generate(model, [ids], Sampling(max_tokens=n, temperature=0.0), tokenizer=words)[0]
    return answer.ids, answer.text, len(answer.ids) / (time.perf_counter() - began)


def picture(rows, path):
    """What each holds, and what it costs."""
    fig, ((left, right),) = plots.figure(1, 2, width=9, height=0.5 * len(rows) + 1.2)
    for ax, place, label, form in ((left, 0, "MB of weights", "%.1f"), (right, 1, "perplexity", "%.3f")):
        drawn = ax.barh(list(rows), [row[place] for row in rows.values()], color=plots.COLOURS)
        ax.bar_label(drawn, fmt=form, padding=4, fontsize=11)
        ax.set(xlabel=label)
        ax.margins(x=0.25)
        ax.invert_yaxis()
    right.set_yticks([])
    return plots.save(fig, path)


def compare(model, words, config, run):
    """Every variant beside the floats."""
    judged = _lab.texts(words, config.judged, model.config.max_seq_len, _lab.HELD_OUT)
    batches = _lab.texts(words, config.windows, min(256, model.config.max_seq_len))
    rows, metrics, want = {}, {}, None
    for name, made in variants(model, batches, config.group or None).items():
        ids, said, speed = text(made, words, config)
        want = want or ids
        agree = sum(a == b for a, b in zip(ids, want, strict=False)) / len(want)
        rows[name] = _lab.bytes_of(made, 4) / 1e6, _lab.perplexity(made, judged)
        run.say(f"\n--- {name}: {agree:.0%} of the tokens, {speed:.0f} tokens/s, {rows[name][0]:.2f} MB, "
                f"perplexity {rows[name][1]:.4f} ---\n{config.prompt}{said}")  # fmt: skip
        metrics |= {f"{name}: agree": agree, f"{name}: perplexity": rows[name][1],
                    f"{name}: MB": rows[name][0], f"{name}: tokens/s": speed}  # fmt: skip
    run.say(f"\npicture: {picture(rows, run.folder / 'variants.png')}")
    return metrics


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model, words = _lab.load(folder, run.device), tokenizer.load(folder)
    if not model.surgery:
        return run.finish(compare(model, words, config, run), corpus="tinytown")
    run.say(f"{folder.name}: {_lab.described(folder)}")
    fast = model if run.device.type != "cpu" else integer.plug(model)
    ids, said, speed = text(fast, words, config)
    run.say(f"{speed:.0f} tokens/s\n{config.prompt}{said}")
    return run.finish({"tokens": float(len(ids)), "tokens/s": speed})


if __name__ == "__main__":
    script(main, PRESETS)
