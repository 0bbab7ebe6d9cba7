"""What the experiments share: a model of the chain, one to time, vectors trained once, the pictures."""

from functools import cached_property

import torch

from common import hub
from common.cli import explore
from common.model import GPT, ModelConfig
from data.tinytown import TinyTown

from . import _dense, _fusion


class Lab(explore.Reader):
    """`model`, `words`: of the chain. `timed`: untrained, of the base's shape and a longer context."""

    @cached_property
    def timed(self):
        torch.manual_seed(0)
        c = self.config
        sizes = {"n_layer": c.n_layer, "d_model": c.d_model, "d_ff": 8 * c.d_model // 3, "vocab_size": 2000}
        return GPT(ModelConfig(**sizes, max_seq_len=2 * c.tokens, tie_embeddings=True)).eval().to(self.device)

    @cached_property
    def town(self):
        return TinyTown(population=self.config.population)

    @cached_property
    def corpus(self):
        return _dense.corpus(self.town, self.config.each)

    @cached_property
    def trained(self):
        """A copy of the chain's model, trained for vectors."""
        model = hub.load(self.folder, device=self.device)
        return _dense.train(model, self.words, self.town, self.config.steps, 8, say=self.say)[0]

    def vectors(self, texts):
        """Of the trained model."""
        return _dense.vectors(self.trained, self.words, texts)

    @cached_property
    def sides(self):
        return _fusion.Sides(self.corpus, self.vectors)

    @cached_property
    def pages(self):
        """Pages of TinyTown as ids, long ones first of all kinds, of another stream than the training's."""
        stream = self.town.pages(seed=1)
        return [self.words.encode(next(stream)) for _ in range(self.config.pages)]

    def ids(self, n, seed=0):
        """n random ids for the timed model."""
        draw = torch.Generator().manual_seed(seed)
        return torch.randint(2000, (n,), generator=draw).tolist()
