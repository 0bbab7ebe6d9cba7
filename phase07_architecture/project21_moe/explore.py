"""See and break: two lines and a gate, who gets which token, what experts buy; no balance, room or softmax.

Every experiment trains models of some ten thousand weights on TinyTown, prints what it found and saves a
picture. `--parts balance` does that one only.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _lab, _see
from .moe import MoEConfig

EXPERIMENTS = {
    "toy": _see.toy, "map": _see.token_map, "experts": _see.experts, "upcycle": _see.upcycle,
    "balance": _break.balance, "capacity": _break.capacity, "softmax": _break.softmax}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    experts: int = 8
    """Experts in a layer."""
    steps: int = 300
    """Updates of each small training."""
    d_model: int = 64
    """Numbers per token."""
    d_ff: int = 128
    """Numbers inside the dense feed-forward."""
    context: int = 64
    """Tokens that a model sees at once."""
    batch_size: int = 16
    """Rows in an update."""
    vocab_size: int = 400
    """Ids of the small tokenizer."""
    judged: int = 12_000
    """Tokens of unseen pages to judge by."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        demand(self.experts >= 4, f"experts is {self.experts}: with fewer than 4 there is little to see")
        self.plan  # noqa: B018 - says now what would be wrong later

    @property
    def plan(self):
        return _lab.Plan(n_layer=2, d_model=self.d_model, d_ff=self.d_ff, context=self.context,
                         batch_size=self.batch_size, steps=self.steps, vocab_size=self.vocab_size,
                         judged=self.judged)  # fmt: skip


class Lab(explore.Album):
    """Small models, each trained once, whichever parts ask for it."""

    def __init__(self, config, run):
        super().__init__(config, run)
        self.plan = config.plan

    @cached_property
    def town(self):
        return _lab.small_town(self.plan, self.run.folder / "tokenizer", self.run.device)

    def fit(self, model, watch=None, **changes):
        """Train a model in place, on the lab's device; returns it and its losses. changes: of the plan."""
        history = _lab.fit(model.to(self.run.device), self.town, replace(self.plan, **changes),
                           self.training_folder(), watch=watch)  # fmt: skip
        return model, history.series("loss")

    def dense(self):
        """A dense model, not yet trained."""
        return self.plan.dense(self.town.tokenizer.vocab_size)

    def mixture(self, **settings):
        """A mixture, not yet trained, with as many numbers inside k experts as the dense model has."""
        config = MoEConfig(**{"experts": self.config.experts, "k": 2, "scale": 2.0, **settings})
        return _lab.mixture(self.plan, self.town.tokenizer.vocab_size, config)

    @cached_property
    def plain(self):
        """The dense model, trained."""
        return self.fit(self.dense())

    @cached_property
    def usual(self):
        """A mixture, trained as it should be; beside it the load on the way: [(update, CV)]."""
        watched = []
        return *self.fit(self.mixture(), watch=self.watch(watched)), watched

    def watch(self, into):
        """For fit: writes down (update, mean CV of the load)."""
        return lambda model, step: into.append((step, _lab.mean_cv(self.loads(model))))

    def loads(self, model):
        return _lab.loads(model, self.town, self.plan.context, 64)

    def loss(self, model):
        """Nats a token of unseen pages."""
        return self.town.loss(model, self.plan.context)


PRESETS = {
    "smoke": Config(experts=4, steps=5, d_model=16, d_ff=24, context=16, batch_size=2, vocab_size=280,
                    judged=200),
    "cpu": Config(),
    "gpu": Config(experts=32, steps=3000, d_model=256, d_ff=512, context=256, batch_size=64),
}  # fmt: skip


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
