"""What the experiments share: the model's folder, its tokenizer, its logits, a generator."""

from functools import cached_property

import torch

from common import hub, tokenizer
from common.cli import chain, explore


class Lab(explore.Album):
    """The config and the run."""

    def __init__(self, config, run):
        self.config, self.run, self.say = config, run, run.say

    @cached_property
    def folder(self):
        return chain.find("sft", self.config.model, say=self.say)

    @cached_property
    def words(self):
        return tokenizer.load(self.folder)

    @cached_property
    def model(self):
        return hub.load(self.folder, device=self.run.device).eval()

    @torch.no_grad()
    def logits(self, ids):
        """Behind the last of these ids: (V,) float64, NumPy."""
        tokens = torch.tensor([ids[-self.model.config.max_seq_len :]], device=self.run.device)
        return self.model(tokens)[0, -1].double().cpu().numpy()
