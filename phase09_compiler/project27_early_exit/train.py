"""Train ways out: a copy of the base with layer dropout and a loss between the blocks, beside a plain twin.

The twin reads the same batches at the top alone, so that what the ways out cost the full model can be seen.
At the end: what each way out says, a threshold for each measure that keeps the promise, and what that saves.
"""

import copy
from dataclasses import dataclass

import torch

from common import plots
from common.cli.paths import models
from common.cli.script import script
from common.errors import demand
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import _fit
from ._model import Source, quality
from .exits import Patience, Rule, Sure, exit_logits
from .thresholds import calibrate, tokens_lost

TRIED = (0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    exits: tuple[int, ...] = (1, 2, 3)
    """After how many blocks the ways out are; those that the model has no room for are left away."""
    steps: int = 300
    """Updates, of the twin as well."""
    learning_rate: float = 5e-4
    """Highest size of an update of the base; ways out, which are new, learn four times as fast."""
    batch_size: int = 4
    """Rows in an update."""
    context: int = 256
    """Tokens of a row."""
    weight: float = 1.0
    """Of a way out in the loss; the top counts 1."""
    most: float = 0.1
    """The chance with which the last block is left out for a row; those before it less."""
    twin: bool = True
    """Train the twin too."""
    judged: int = 20_000
    """Tokens of unseen pages to judge by, and as many to choose thresholds on."""
    tolerance: float = 0.02
    """The share of tokens that may come out differently."""
    chance: float = 0.1
    """The chance with which a threshold may break that promise."""
    save: bool = True
    """Save the model as models/early."""
    seed: int = 1337
    """Of the order of the text, and of what is left out."""

    def __post_init__(self):
        demand(self.exits, "exits: name at least one, such as --exits 2")
        demand(self.weight >= 0 and 0 <= self.most < 1, "weight is at least 0, and most lies in [0, 1)")
        demand(0 < self.tolerance < 1 and 0 < self.chance < 1, "tolerance and chance lie between 0 and 1")
        demand(self.judged > self.context, "judged must be more tokens than one context holds")
        self.plan  # noqa: B018 - says now what would be wrong later

    @property
    def plan(self):
        return _fit.Plan(self.steps, self.learning_rate, self.batch_size, self.context, self.seed)


PRESETS = {
    "smoke": Config(steps=3, batch_size=2, context=24, judged=400, tolerance=0.3, save=False),
    "cpu": Config(),
    "gpu": Config(steps=4000, batch_size=32, context=512, judged=400_000, tolerance=0.01),
}


@torch.no_grad()
def each_exit(model, town, objective, context):
    """{n: (the share of likeliest tokens that are the top's, nats a token)} of every way out and the top."""
    rows, found = town.held.unfold(0, context + 1, context), {}
    for row in rows.split(8):
        states = objective.eval().states(row[:, :-1])
        logits = {n: exit_logits(model, n, x) for n, x in states.items()}
        top = logits[len(model.blocks)].argmax(-1)
        for n, x in logits.items():
            loss = torch.nn.functional.cross_entropy(x.flatten(0, 1).float(), row[:, 1:].flatten())
            part = torch.tensor([(x.argmax(-1) == top).float().mean().item(), loss.item()])
            found[n] = found.get(n, 0) + part * len(row) / len(rows)
    return {n: tuple(values.tolist()) for n, values in found.items()}


def rules_of(model, town, config, measures=("probe", "confidence", "margin", "certainty")):
    """{measure: (threshold or None, its rule)}: the lowest that is certified on text to tune on."""
    T = max(8, config.context // 8)
    rows, found = town.tune[: len(town.tune) // T * T].view(-1, T), {}
    for measure in measures:
        chosen = calibrate(TRIED, lambda t, m=measure: tokens_lost(model, rows, Sure(m, t), 64),
                           config.tolerance, config.chance)  # fmt: skip
        found[measure] = chosen, Rule() if chosen is None else Sure(measure, chosen)
    return found


def draw(curves, tolerance):
    """Blocks a token against tokens that come out differently, for each measure."""
    fig, ((ax,),) = plots.figure()
    for name, row in curves.items():
        ax.plot([found["depth"] for found in row], [1 - found["same"] for found in row], "o-", label=name)
    plots.level(ax, tolerance, "promised")
    ax.set(xlabel="blocks a token", ylabel="tokens that come out differently")
    plots.legend(ax)
    return fig


def judge(model, source, config, run):
    """What thresholds are certified, what they keep on fresh pages, and a picture of the trade."""
    town, found = source.town, {}
    for measure, (threshold, rule) in rules_of(model, town, config).items():
        if threshold is None:
            run.say(f"{measure:12} no threshold is certified: more --judged, or more --tolerance")
        row = quality(model, town.held, rule, config.context)
        said = "never" if threshold is None else f"{threshold:g}"
        run.say(f"{measure:12} from {said:6} {row['depth']:.2f} blocks a token, {1 - row['same']:.2%} come "
                f"out differently, {row['perplexity']:.4f} times the perplexity")  # fmt: skip
        found |= {f"{measure}: {key}": row[key] for key in ("depth", "same", "perplexity")}
    few = town.held[: max(config.context + 1, len(town.held) // 4)]
    curves = {name: [quality(model, few, Sure(name, t), config.context) for t in (0.99, 0.95, 0.9, 0.8, 0.6)]
              for name in ("probe", "confidence", "certainty")}  # fmt: skip
    curves["patience"] = [quality(model, few, Patience(k), config.context) for k in (4, 3, 2)]
    run.say(f"picture: {plots.save(draw(curves, config.tolerance), run.folder / 'exits.png')}")
    return found


def main(config, run):
    source = Source(config.model, config, run.device, run.say)
    town, plan = source.town, config.plan
    metrics = {"base: loss": town.loss(source.base, config.context)}
    if config.twin:
        run.say(f"twin: {plan.steps} updates")
        objective = CausalLM(copy.deepcopy(source.base))
        town.fit(objective, plan, run.folder / "twin", resume=run.resumed, say=run.say)
        metrics["twin: loss"] = town.loss(objective.model, plan.context)
    run.say(f"with ways out: {plan.steps} updates")
    objective = source.objective()
    town.fit(objective, plan, run.folder / "early", resume=run.resumed, say=run.say)
    model = objective.model
    for n, (same, loss) in each_exit(model, town, objective, plan.context).items():
        run.say(
            f"after {n} blocks: {same:.1%} of the likeliest tokens are the top's, {loss:.4f} nats a token"
        )
        metrics |= {f"after {n}: same": same, f"after {n}: loss": loss}
    full = metrics[f"after {len(model.blocks)}: loss"]
    run.say(
        "at the top: "
        + ", ".join(
            f"{name.split(':')[0]} {metrics[name]:.4f}"
            for name in metrics
            if name in ("base: loss", "twin: loss")
        )
        + f", this one {full:.4f} nats"
    )
    metrics |= judge(model, source, config, run)
    for place in [run.folder / "model", *([models() / "early"] if config.save else [])]:
        source.save(model, place, metrics)
        run.say(f"saved: {place}")
    run.finish(metrics, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
