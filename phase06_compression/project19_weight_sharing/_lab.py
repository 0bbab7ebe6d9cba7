"""What the experiments share: the base model and its text, short trainings, small models."""

import copy
from dataclasses import replace

import torch

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain, explore
from common.errors import demand
from common.model import GPT, ModelConfig
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.town import Plan, Town, demand_context


class Lab(explore.Album):
    """The base model is never changed: what is shared is a copy of it."""

    def __init__(self, config, run):
        super().__init__(config, run)
        folder = chain.find("base", config.model, say=run.say)
        self.tokenizer, self.base = tokenizers.load(folder), hub.load(folder, device=run.device)
        demand_context(self.base, config.context)
        several = len(self.base.blocks) > 1
        demand(several, "a model of one layer has nothing to share between layers: name another")
        self.plan = Plan(config.steps, config.learning_rate, config.batch_size, config.context, config.seed)
        self.town = Town(self.tokenizer, self.plan.text, config.judged, run.device)

    def copy(self):
        """The base model, to be changed."""
        return copy.deepcopy(self.base)

    def loss(self, model):
        """Nats a token of unseen pages."""
        return self.town.loss(model, self.config.context)

    def trained(self, model, *, points=0, **changes):
        """Train a model in place; [(update, loss on unseen pages)] at so many points. changes: of plan."""
        plan = replace(self.plan, **changes)
        every = max(1, plan.steps // points) if points else 0
        history = self.town.fit(CausalLM(model), plan, self.training_folder(), every=every)
        return list(zip(*history.series("val_loss"), strict=True))

    def small(self):
        """A new model of 2 x 64 with two tables, always the same."""
        torch.manual_seed(0)
        sizes = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 64, "d_ff": 160}
        ends = {"vocab_size": self.tokenizer.vocab_size, "max_seq_len": self.config.context}
        return GPT(ModelConfig(**sizes, **ends)).to(self.run.device)
