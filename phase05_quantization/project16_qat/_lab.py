"""What the experiments share: the base model, its text, and short trainings of copies of it."""

import copy
from dataclasses import replace

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain, explore
from common.errors import demand

from . import _tune, qat


class Lab(explore.Album):
    """The base model is never changed: each training has a copy of its own."""

    def __init__(self, config, run):
        self.config, self.run, self.say = config, run, run.say
        folder = chain.find("base", config.model, say=run.say)
        self.tokenizer, self.base = tokenizers.load(folder), hub.load(folder, device=run.device)
        most = self.base.config.max_seq_len
        demand(config.context <= most, f"a context of {config.context} is longer than the {most} tokens that "
               "this model reads")  # fmt: skip
        self.plan = _tune.Plan(steps=config.steps, batch_size=config.batch_size, context=config.context,
                               learning_rate=config.learning_rate, seed=config.seed)  # fmt: skip
        tokens = min(2_000_000, config.steps * config.batch_size * config.context + config.context + 1)
        self.town = _tune.Town(self.tokenizer, tokens, config.judged, run.device)

    def trained(self, dress=lambda model: model, *, every=0, on_eval=None, **changes):
        """(a copy of the base, changed by `dress` and then trained; the history). changes: of the plan.

        on_eval(model, update) is called every so many updates, and at both ends.
        """
        model = dress(copy.deepcopy(self.base))
        watch = on_eval and (lambda update, metrics: on_eval(model, update))
        history = _tune.fit(model, self.town, replace(self.plan, **changes), every=every, on_eval=watch,
                            folder=self.training_folder())  # fmt: skip
        return model.eval(), history

    def coarse(self, bits, **settings):
        """A `dress` for trained: rounds the blocks."""
        return lambda model: qat.apply(model, qat.QATConfig(bits, **settings))

    def loss(self, model):
        """Nats a token of unseen pages."""
        return self.town.loss(model, self.config.context)
