"""What the experiments share: the model with ways out, its text, clocks."""

import torch

from common.cli import explore
from common.errors import demand
from phase01_foundation.project03_pretrain.town import demand_context

from ._model import Source, quality
from .train import PRESETS


class Lab(explore.Album):
    """`model` has ways out that learned; `source.base` is what it was before."""

    def __init__(self, config, run):
        super().__init__(config, run)
        self.source = Source(config.model, PRESETS[run.preset], run.device, run.say)
        self.model, self.words, self.town = self.source.early.eval(), self.source.words, self.source.town
        self.top, self.ways = len(self.model.blocks), self.model.exits.layers
        demand_context(self.model, config.context)
        few = max(config.judged, config.context + 1)
        demand(len(self.town.held) >= few, f"there are {len(self.town.held)} tokens to judge by, not {few}")
        self.held = self.town.held[:few]

    def quality(self, rule, model=None):
        """How early answers are beside full ones, on unseen pages."""
        return quality(model or self.model, self.held, rule, self.config.context)

    def pages(self, count, T):
        """Pieces of T ids, (T,) each, of unseen pages."""
        return list(self.source.prompts(count, T))

    @torch.no_grad()
    def states(self, model, tokens):
        """{n: (B, T, C)}: states after each number of blocks, nobody having left."""
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x, rope, found = model.embed(tokens, positions), model.rope(positions), {}
        for n, block in enumerate(model.blocks, 1):
            found[n] = x = block(x, rope=rope, positions=positions)
        return found
