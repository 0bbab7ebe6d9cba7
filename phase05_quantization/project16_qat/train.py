"""Train a model with its rounding in place, beside a control in float and the same model rounded untrained.

All three begin as the base model. The two that are trained see the same batches. At the end the trained one
is frozen and exported to codes, which must give the same logits to the last bit.
"""

import copy
import sys
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from common import hub, plots
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.paths import models
from common.cli.script import script
from common.errors import demand
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.town import Town, demand_context

from . import _tune, qat


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    bits: Literal[2, 3, 4, 8] = 3
    """Bits of a weight."""
    group: int = 0
    """Weights of a row that share a step; 0: the whole row."""
    scales: Literal["learned", "observed"] = "learned"
    """Steps that are trained, or taken from the largest weight."""
    inputs: Literal["float", "dynamic", "static"] = "float"
    """8 bits for what the weights are multiplied with: a step for each token, or one that was observed."""
    steps: int = 300
    """Updates, of the control as well."""
    learning_rate: float = 5e-4
    """Highest size of an update."""
    step_rate: float = 3e-3
    """By which share of itself a learned step moves at most in an update."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 256
    """Tokens of a row."""
    judged: int = 40_000
    """Tokens of unseen pages to judge by."""
    asked: int = 100
    """Sentences about the town to complete; 0: none."""
    save: bool = False
    """Save the exported model as models/qat."""
    seed: int = 1337
    """Of the order of the text."""

    def __post_init__(self):
        demand(self.group >= 0 and self.asked >= 0, "group and asked must be at least 0")
        demand(self.judged > self.context, "judged must be more tokens than one context holds")
        self.plan, self.rounding  # noqa: B018 - says now what would be wrong later

    @property
    def plan(self):
        return _tune.Plan(steps=self.steps, learning_rate=self.learning_rate, step_rate=self.step_rate,
                          batch_size=self.batch_size, context=self.context, seed=self.seed)  # fmt: skip

    @property
    def rounding(self):
        return qat.QATConfig(self.bits, self.group or None, self.scales, self.inputs)


PRESETS = {
    "smoke": Config(steps=4, batch_size=2, context=24, judged=200, asked=4),
    "cpu": Config(),
    "gpu": Config(steps=4000, batch_size=32, context=512, judged=400_000, asked=400),
}


def trained(base, town, config, run, rounding=None):
    """(a copy of the base after its training, the history): rounded on the way, or the control."""
    model, name = copy.deepcopy(base), "control" if rounding is None else "qat"
    batch_at = town.batches(config.plan)
    if rounding is not None:
        qat.apply(model, rounding)
    if config.inputs == "static" and rounding is not None:
        qat.calibrate(model, (batch_at(i)[0] for i in range(4)))
    run.say(f"{name}: {config.steps} updates")
    history = town.fit(CausalLM(model), config.plan, run.folder / name, resume=run.resumed, say=run.say)
    return model, history


@torch.no_grad()
def exported(model, town, config):
    """(the model as codes, whether its logits are the trained one's to the last bit)."""
    tokens = town.held[None, : config.context]
    want = qat.freeze(model)(tokens)
    model = qat.export(model)
    return model, torch.equal(model(tokens), want)


def draw(history, levels, title):
    """Losses of both trainings, and where the models stand that were not trained."""
    fig, ((ax,),) = plots.figure()
    for (name, past), colour in zip(history.items(), (plots.COLOURS[6], plots.COLOURS[0]), strict=True):
        ax.plot(*past.series("loss"), linewidth=1.1, color=colour, label=name)
    for name, value in levels.items():
        plots.level(ax, value, name)
    ax.set(xlabel="update", ylabel="nats a token", title=title)
    plots.legend(ax)
    return fig


def report(found, config, run):
    """The table, and the recovery."""
    for name, figures in found.items():
        run.say(f"{name:34}" + "   ".join(f"{key} {value:.4f}" for key, value in figures.items()))
    loss = {name: figures["loss"] for name, figures in found.items()}
    ptq = min(value for name, value in loss.items() if name.startswith("rounded"))
    share = _tune.recovery(ptq, loss["float"], loss["trained"], loss["control"])
    run.say(f"recovery = 1 - (trained - control) / (rounded - float) = 1 - "
            f"({loss['trained'] - loss['control']:+.4f}) / ({ptq - loss['float']:+.4f}) = "
            f"{share:.1%} at {config.bits} bits")  # fmt: skip
    return share


def save(model, tokenizer, config, metrics, base, run):
    """The exported model, into the run's folder and if asked as models/qat."""
    card = {"made_by": "project16_qat", "command": " ".join(sys.argv), "config": asdict(config),
            "base": str(base), "metrics": metrics}  # fmt: skip
    for folder in [run.folder / "model", *([models() / "qat"] if config.save else [])]:
        hub.save(model, folder, tokenizer=tokenizer, card=card)
        size = (folder / "model.safetensors").stat().st_size / 1e6
        run.say(f"saved, {size:.1f} MB: {folder}")


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    tokenizer, base = tokenizers.load(folder), hub.load(folder, device=run.device)
    context = config.context
    demand_context(base, context)
    town = Town(tokenizer, config.plan.text, config.judged, run.device)
    control, past = trained(base, town, config, run)
    made, curve = trained(base, town, config, run, config.rounding)
    made, equal = exported(made, town, config)
    assert equal, "the exported model gives other logits than the one that was trained"
    once, later = (_tune.rounded(model, config.bits, config.group or None) for model in (base, control))
    sides = {"float": base, **{f"rounded, {grid}": model for grid, model in once.items()}, "control": control,
             **{f"control, rounded, {grid}": model for grid, model in later.items()}, "trained": made}
    found = {name: {"loss": town.loss(model, context)} for name, model in sides.items()}
    for name, model in sides.items():
        if config.asked:
            found[name]["knows"] = probe.knows(model, tokenizer, TinyTown(), most=config.asked)
    run.say("the exported model gives the logits of the trained one, to the last bit")
    metrics = {f"{name}: {key}": value for name, row in found.items() for key, value in row.items()}
    metrics["recovery"] = report(found, config, run)
    for name in ("float", "rounded, absmax", "trained"):
        text = probe.write(sides[name], tokenizer, max_tokens=min(24, context // 2), seed=1)
        run.say(f"{name} writes: {' '.join(text.split())}")
    levels = {"float": found["float"]["loss"],
              "rounded": min(found[f"rounded, {grid}"]["loss"] for grid in once)}
    title = f"{config.bits} bits: {metrics['recovery']:.0%} of the damage recovered"
    picture = draw({"control, in float": past, "rounded in training": curve}, levels, title)
    run.say(f"curves: {plots.save(picture, run.folder / 'qat.png')}")
    save(made, tokenizer, config, metrics, folder, run)
    run.finish(metrics, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
