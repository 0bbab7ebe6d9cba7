"""What the experiments share: the base model, its text, and short trainings of copies of it."""

import copy
from dataclasses import replace

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain, explore
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.town import Town, demand_context

from . import _tune, qat


class Lab(explore.Album):
    """The base model is never changed: each training has a copy of its own."""

    def __init__(self, config, run):
        super().__init__(config, run)
        folder = chain.find("base", config.model, say=run.say)
        self.tokenizer, self.base = tokenizers.load(folder), hub.load(folder, device=run.device)
        demand_context(self.base, config.context)
        self.plan = _tune.Plan(steps=config.steps, batch_size=config.batch_size, context=config.context,
                               learning_rate=config.learning_rate, seed=config.seed)  # fmt: skip
        self.town = Town(self.tokenizer, self.plan.text, config.judged, run.device)

    def trained(self, dress=lambda model: model, *, every=0, on_eval=None, **changes):
        """(a copy of the base, changed by `dress` and then trained; the history). changes: of the plan.

        on_eval(model, update) is called every so many updates, and at both ends.
        """
        model = dress(copy.deepcopy(self.base))
        watch = on_eval and (lambda update, metrics: on_eval(model, update))
        history = self.town.fit(CausalLM(model), replace(self.plan, **changes), self.training_folder(),
                                every=every, on_eval=watch)  # fmt: skip
        return model, history

    def coarse(self, bits, **settings):
        """A `dress` for trained: rounds the blocks."""
        return lambda model: qat.apply(model, qat.QATConfig(bits, **settings))

    def loss(self, model):
        """Nats a token of unseen pages."""
        return self.town.loss(model, self.config.context)
