"""Train a mixture of experts, beside the dense model that costs a token as much.

Both see the same batches in the same order. At the end: losses on unseen pages, weights in all and weights
that a token meets, tokens a second, how even the load is. --upcycle begins with the course's base model.
"""

import copy
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from common import hub, plots
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.paths import models
from common.cli.script import script
from common.errors import demand
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.town import Town, demand_context

from . import _lab, router, surgery
from .moe import MoEConfig

BALANCE = {"loss": {"aux": 0.01}, "bias": {"aux": 0.0, "rate": 0.003}, "none": {"aux": 0.0, "z": 0.0}}


@dataclass(frozen=True)
class Config:
    experts: int = 16
    """Experts in a layer."""
    k: int = 2
    """Experts of a token."""
    balance: Literal["loss", "bias", "none"] = "loss"
    """What keeps the load even: a loss, a bias on the choice, or nothing."""
    shared: int = 0
    """Numbers inside an expert that every token takes besides; 0: there is none."""
    capacity: float = 0.0
    """In training an expert takes at most this times its even share; 0: all that choose it."""
    upcycle: bool = False
    """Begin with a trained model whose feed-forwards become the experts; a token then costs more."""
    model: str = ""
    """For --upcycle: folder or name of a model; empty: models/base, or where there is none, a tiny one."""
    n_layer: int = 3
    """Blocks, one above the other."""
    d_model: int = 128
    """Numbers per token."""
    d_ff: int = 256
    """Numbers inside the dense feed-forward; k experts together have as many."""
    context: int = 128
    """Tokens that the model sees at once."""
    batch_size: int = 16
    """Rows in an update."""
    steps: int = 500
    """Updates, of each of the two models."""
    learning_rate: float = 3e-3
    """Highest size of an update."""
    vocab_size: int = 512
    """Ids of the small tokenizer that is learnt here."""
    judged: int = 40_000
    """Tokens of unseen pages to judge by."""
    save: bool = False
    """Save the mixture as models/moe."""
    seed: int = 1337
    """Of the weights and of the order of the text."""

    def __post_init__(self):
        demand(self.capacity >= 0, f"capacity is {self.capacity}: at least 0; 0: nothing is dropped")
        self.plan, self.mixture  # noqa: B018 - says now what would be wrong later

    @property
    def plan(self):
        return _lab.Plan(n_layer=self.n_layer, d_model=self.d_model, d_ff=self.d_ff, context=self.context,
                         batch_size=self.batch_size, steps=self.steps, learning_rate=self.learning_rate,
                         vocab_size=self.vocab_size, judged=self.judged, seed=self.seed)  # fmt: skip

    @property
    def mixture(self):
        return MoEConfig(experts=self.experts, k=self.k, shared=self.shared, capacity=self.capacity or None,
                         scale=1.0 if self.upcycle else self.k, **BALANCE[self.balance])  # fmt: skip


PRESETS = {
    "smoke": Config(experts=4, n_layer=1, d_model=32, d_ff=48, context=24, batch_size=4, steps=4,
                    vocab_size=300, judged=600),
    "cpu": Config(),
    "gpu": Config(experts=64, n_layer=8, d_model=512, d_ff=1536, context=512, batch_size=64, steps=10_000,
                  learning_rate=1e-3, vocab_size=8_000, judged=400_000),
}  # fmt: skip


def begin(config, run):
    """(the dense model, the mixture, the text, where they come from)"""
    plan = config.plan
    if not config.upcycle:
        town = _lab.small_town(plan, run.folder / "tokenizer", run.device)
        ids = town.tokenizer.vocab_size
        dense = plan.dense(ids, config.seed)
        return dense, _lab.mixture(plan, ids, config.mixture, config.seed), town, "drawn anew"
    folder = chain.find("base", config.model, say=run.say)
    dense, tokenizer = hub.load(folder), tokenizers.load(folder)
    demand_context(dense, plan.context)
    town = Town(tokenizer, plan.text, plan.judged, run.device)
    return dense, surgery.upcycle(copy.deepcopy(dense), config.mixture), town, str(folder)


def sizes(model):
    """(weights in all, weights that a token meets)"""
    every = sum(p.numel() for p in model.parameters())
    has = any(".experts." in name for name, _ in model.named_parameters())
    return surgery.active(model) if has else (every, every)


def trained(name, model, town, config, run):
    """Train one of the two; {figure: value}, and its history."""
    every, used = sizes(model)
    run.say(f"{name}: {every:,} weights, of which a token meets {used:,}; {config.steps} updates")
    history = _lab.fit(model.to(run.device), town, config.plan, run.folder / name, resume=run.resumed,
                       say=run.say)  # fmt: skip
    return {"loss": town.loss(model, config.context), "weights": every, "active": used,
            "tokens_per_s": history.speed}, history  # fmt: skip


def draw(history, counts, title):
    """Losses of both, and what every expert of every layer has to do."""
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    for (name, past), colour in zip(history.items(), (plots.COLOURS[6], plots.COLOURS[0]), strict=True):
        left.plot(*past.series("loss"), linewidth=1.1, color=colour, label=name)
    left.set(xlabel="update", ylabel="nats a token, and what routers add", title=title)
    plots.legend(left)
    share = counts / counts.sum(1, keepdim=True) * counts.size(1)
    picture = plots.heatmap(right, share, y=[f"layer {i}" for i in range(len(share))], high=2.0,
                            title="load of each expert (1: its even share)")  # fmt: skip
    right.set_aspect("auto")
    fig.colorbar(picture, ax=right)
    return fig


def report(found, counts, run):
    """What the run has shown; {figure: value}."""
    for name, row in found.items():
        run.say(f"{name:8} loss {row['loss']:.4f}   weights {row['weights']:,}   met by a token "
                f"{row['active']:,}   {row['tokens_per_s']:,.0f} tokens/s")  # fmt: skip
    dense, mixed = found["dense"], found["experts"]
    metrics = {f"{name}: {key}": value for name, row in found.items() for key, value in row.items()}
    metrics |= {"loss against dense": mixed["loss"] / dense["loss"], "load cv": _lab.mean_cv(counts),
                "load evenness": sum(map(router.evenness, counts)) / len(counts)}  # fmt: skip
    run.say(f"loss {metrics['loss against dense'] - 1:+.2%} of the dense model's, with "
            f"{mixed['weights'] / dense['weights']:.1f} times the weights, at "
            f"{mixed['tokens_per_s'] / dense['tokens_per_s']:.2f} of its speed")  # fmt: skip
    run.say(f"load: CV {metrics['load cv']:.2f} (0: even), entropy {metrics['load evenness']:.1%} of the "
            "largest")  # fmt: skip
    return metrics


def save(model, town, config, metrics, origin, run):
    """The mixture, into the run's folder and if asked as models/moe."""
    card = {"made_by": "project21_moe", "command": " ".join(sys.argv), "config": asdict(config),
            "base": origin, "metrics": metrics}  # fmt: skip
    for folder in [run.folder / "model", *([models() / "moe"] if config.save else [])]:
        hub.save(model, folder, tokenizer=town.tokenizer, card=card)
        run.say(f"saved: {folder}")


def main(config, run):
    dense, mixed, town, origin = begin(config, run)
    pairs = {name: trained(name, model, town, config, run)
             for name, model in (("dense", dense), ("experts", mixed))}  # fmt: skip
    counts = _lab.loads(mixed, town, config.context)
    metrics = report({name: row for name, (row, _) in pairs.items()}, counts, run)
    text = probe.write(mixed, town.tokenizer, max_tokens=min(48, config.context // 2), seed=1)
    run.say(f"the mixture writes: {' '.join(text.split())}")
    title = f"{config.experts} experts, {config.k} for a token: {metrics['loss against dense'] - 1:+.1%} loss"
    picture = draw({name: past for name, (_, past) in pairs.items()}, counts, title)
    run.say(f"curves: {plots.save(picture, run.folder / 'moe.png')}")
    save(mixed, town, config, metrics, origin, run)
    run.finish(metrics, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
