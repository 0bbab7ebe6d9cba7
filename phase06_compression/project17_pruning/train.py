"""Prune a model, let what is left learn on for a little while, see what that cost, and save it.

`./thirty chat --model FOLDER` and every other script take the folder as they take any other.
"""

import copy
import math
import sys
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from common import plots
from common.cli.paths import models
from common.cli.script import script
from common.errors import demand
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.town import demand_context, ids_of

from . import _lab, _tune, magnitude, storage

METHODS = (*_lab.METHODS, "gradual")


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    method: Literal["magnitude", "global", "wanda", "sparsegpt", "structured", "gradual"] = "structured"
    """What goes: single weights, or heads and neurons (structured); gradual: while it learns."""
    sparsity: float = 0.3
    """The share of the blocks' weights that goes."""
    pattern: str = ""
    """2:4 leaves two of every four neighbours; empty: no pattern. It decides the sparsity."""
    layers: int = 0
    """Layers that stay, for structured; 0: all of them."""
    masks: str = ""
    """A file of masks that an earlier run wrote for this model, instead of choosing them."""
    steps: int = 144
    """Updates afterwards (of gradual: meanwhile); 0: none. The default is 5 % of what the base has read."""
    learning_rate: float = 1e-3
    """Highest size of an update."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 256
    """Tokens of a row."""
    windows: int = 32
    """Texts that methods look at."""
    length: int = 256
    """Tokens of each."""
    judged: int = 32
    """Unseen texts, of the model's whole context, to measure perplexity by."""
    asked: int = 100
    """Sentences about the town to complete; 0: none."""
    prompt: str = "Mara lives in"
    """What the text begins with that each model goes on with."""
    save: bool = False
    """Save the result as models/pruned too."""
    seed: int = 1337
    """Of the order of the text."""

    def __post_init__(self):
        magnitude.demand_share(self.sparsity)
        _lab.pattern_of(self.pattern)
        demand(self.steps > 0 or self.method != "gradual", "gradual prunes in training: give it steps")
        demand(min(self.windows, self.length, self.judged) >= 1 and min(self.layers, self.asked) >= 0,
               "windows, length and judged must be at least 1, layers and asked at least 0")  # fmt: skip
        demand(not self.pattern or self.method in ("magnitude", "wanda", "sparsegpt"),
               f"{self.method} has no pattern: magnitude, wanda and sparsegpt do")  # fmt: skip
        demand(not self.layers or self.method == "structured", "layers stay or go with method structured")
        self.plan(max(1, self.steps))

    def plan(self, steps):
        return _tune.Plan(steps, self.learning_rate, self.batch_size, self.context, self.seed)


PRESETS = {
    "smoke": Config(steps=3, batch_size=2, context=24, windows=2, length=24, judged=2, asked=2),
    "cpu": Config(),
    "gpu": Config(steps=600, batch_size=16, context=512, windows=128, length=512, judged=128, asked=400),
}


def cut(base, tokenizer, config):
    """A copy of the base after the method, or after the masks of a file."""
    made = copy.deepcopy(base)
    if config.method == "gradual":
        return made
    if config.masks:
        return magnitude.settle(magnitude.hold(made, _lab.read_masks(config.masks, base)))
    length = min(config.length, base.config.max_seq_len)
    batches = _lab.texts(tokenizer, config.windows, length)
    more = {"layers": config.layers or None} if config.method == "structured" else {}
    return _lab.method(config.method)(made, batches, config.sparsity, _lab.pattern_of(config.pattern), **more)


def learn(model, base, tokenizer, config, run):
    """(histories by name): what is left learns on, and beside it the whole model, as long."""
    plan = config.plan(config.steps)
    ids = ids_of(tokenizer, _lab.LEARN, plan.text)
    run.say(f"{plan.steps} updates, {plan.steps * plan.tokens:,} tokens, of what is left")
    how = {"resume": run.resumed, "say": run.say}
    folder = run.folder / "recovery"
    if config.method == "gradual":
        history = _tune.gradual(model, ids, plan, folder, config.sparsity, **how)
    else:
        history = _tune.recover(model, ids, plan, folder, **how)
    run.say("as many of the whole model, for comparison")
    control = copy.deepcopy(base)
    return {config.method: history, "whole model": _tune.recover(control, ids, plan, run.folder / "control",
                                                                 **how)}, control  # fmt: skip


def draw(history, levels, title):
    """Losses while they learn, and where the models stand that do not."""
    fig, ((ax,),) = plots.figure()
    for (name, past), colour in zip(history.items(), (plots.COLOURS[0], plots.COLOURS[6]), strict=False):
        ax.plot(*past.series("loss"), linewidth=1.2, color=colour, label=name)
    for name, value in levels.items():
        plots.level(ax, math.log(value), name)
    ax.set(xlabel="update", ylabel="nats a token", title=title)
    if history:
        plots.legend(ax)
    return fig


def keep(model, tokenizer, config, metrics, masks, base, run):
    """Save, load again, and see that it is the same; the folder."""
    card = {"command": " ".join(sys.argv), "config": asdict(config), "metrics": metrics}
    for folder in [run.folder / "model", *([models() / "pruned"] if config.save else [])]:
        _lab.save(model, folder, tokenizer=tokenizer, card=card)
        run.say(f"saved: {folder} ({_lab.file_bytes(folder) / 1e6:.2f} MB)")
    if masks:
        path = run.folder / "masks.safetensors"
        _lab.write_masks(masks, path, storage.fingerprint(base))
        run.say(f"masks: {path} ({path.stat().st_size / 1e6:.2f} MB)")
    again, tokens = _lab.load(run.folder / "model", run.device), torch.arange(8, device=run.device)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens)), "the folder computes something else"
    return again


def main(config, run):
    folder, base, tokenizer = _lab.plain_model(config.model, run.say, run.device)
    demand_context(base, config.context)
    most = base.config.max_seq_len
    judged = _lab.texts(tokenizer, config.judged, most, _lab.HELD_OUT)
    run.say(f"{folder.name}: {config.method}, {config.pattern or f'{config.sparsity:.0%} of the blocks'}")
    model, history, sides = cut(base, tokenizer, config), {}, {"whole": base}
    levels = {"whole": _lab.perplexity(base, judged), "pruned": _lab.perplexity(model, judged)}
    masks = {} if config.method == "structured" else _tune.zeros_of(model)
    if config.steps:
        history, control = learn(model, base, tokenizer, config, run)
        levels |= {"pruned, learnt on": _lab.perplexity(model, judged)}
        levels |= {"whole, learnt on": _lab.perplexity(control, judged)}
    if config.method == "gradual":
        masks = _tune.zeros_of(model)
    again = keep(model, tokenizer, config, levels, masks, base, run)
    metrics = {f"perplexity, {name}": value for name, value in levels.items()}
    for name, value in levels.items():
        run.say(f"perplexity, {name:18} {value:.4f}   x {value / levels['whole']:.4f}")
    for name, side in {**sides, "pruned": again}.items():
        text, speed = _lab.says(side, tokenizer, config.prompt, min(64, most // 2))
        metrics |= {f"weights, {name}": _lab.weights_of(side), f"tokens/s, {name}": speed}
        if config.asked:
            metrics[f"knows, {name}"] = probe.knows(side, tokenizer, TinyTown(), most=config.asked)
        run.say(f"\n{name}: {_lab.weights_of(side):,} weights, {speed:.0f} tokens/s"
                + (f", knows {metrics[f'knows, {name}']:.0%}" if config.asked else "")
                + f"\n{config.prompt}{' '.join(text.split())}")  # fmt: skip
    metrics["bytes"] = _lab.file_bytes(run.folder / "model")
    shown = {name: value for name, value in levels.items() if name in ("whole", "pruned")}
    picture = draw(history, shown, f"{config.method}, {config.pattern or f'{config.sparsity:.0%}'}")
    run.say(f"\npicture: {plots.save(picture, run.folder / 'pruning.png')}")
    run.finish({name: float(value) for name, value in metrics.items()}, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
