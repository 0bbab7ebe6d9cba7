"""What the experiments share: a small text and tokenizer, small models, one loop that may go wrong and say
so."""

import math
from collections.abc import Callable
from itertools import count, islice

import torch
from torch import nn

from common import tokenizer as tokenizers
from common.cli import explore
from common.model import GPT, ModelConfig
from common.recipe import TrainConfig, learning_rate
from data.tinytown import TinyTown

from . import _text, probe
from ._build import adamw
from .objectives import CausalLM


class Lab(explore.Album):
    """TinyTown in small: its pages as ids, models of 2 x 64 unless told otherwise, and a judge."""

    def __init__(self, config, run, context=64, rows=16):
        super().__init__(config, run)
        self.context, self.rows = context, rows
        pages = list(_text.at_most(TinyTown().pages(), config.characters))
        self.pages = [page for page in pages if not _text.is_held_out(page)]
        folder = run.folder / "tokenizer"
        _text.learn_tokenizer(self.pages, config.vocab_size, folder)
        self.tokenizer = tokenizers.load(folder)
        self.lengths = probe.byte_lengths(self.tokenizer)
        self.ids = self.encode(self.pages)
        self.valid = self.encode(page for page in pages if _text.is_held_out(page))[: config.judged]

    def encode(self, documents) -> torch.Tensor:
        """All documents as one row of ids, an end behind each."""
        end = probe.end_id(self.tokenizer)
        return torch.tensor([i for text in documents for i in [*self.tokenizer.encode(text), end]])

    def model(self, seed=0, dress: Callable[[GPT], GPT] = lambda model: model, **sizes) -> GPT:
        """A small model, its parts exchanged by `dress`, its weights drawn from the seed."""
        torch.manual_seed(seed)
        sizes = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 64, "d_ff": 160} | sizes
        model = dress(GPT(ModelConfig(vocab_size=self.tokenizer.vocab_size, max_seq_len=self.context,
                                      tie_embeddings=True, **sizes)))  # fmt: skip
        model.init_weights()
        return model.to(self.run.device)

    def batches(self, ids=None, seed=0) -> Callable:
        """batch_at(step) -> (inputs, targets), each (rows, context), from random places of `ids`."""
        ids = self.ids if ids is None else ids

        def batch_at(step):
            draw = torch.Generator().manual_seed(1_000_003 * seed + step)
            starts = torch.randint(len(ids) - self.context, (self.rows, 1), generator=draw)
            windows = ids[starts + torch.arange(self.context + 1)].to(self.run.device)  # (rows, context + 1)
            return windows[:, :-1], windows[:, 1:]

        return batch_at

    def windows(self, ids=None):
        """The held-out ids as (inputs, targets) in windows of one context that do not overlap."""
        ids = self.valid if ids is None else ids
        for part in ids.unfold(0, self.context + 1, self.context).split(64):
            yield part[:, :-1], part[:, 1:]

    def loss(self, model) -> float:
        """Nats a token on held-out pages; infinite if the model is broken."""
        found = probe.surprise(model, self.windows())["loss"]
        return found if math.isfinite(found) else math.inf

    def bits_per_byte(self, model, ids) -> float:
        """Of unseen ids; unlike the loss, it may be compared between texts."""
        return probe.surprise(model, self.windows(ids), self.lengths)["bits_per_byte"]

    def settings(self, **changes) -> TrainConfig:
        """The settings of a small training."""
        usual = {
            "steps": self.config.steps,
            "warmup": self.config.steps // 10,
            "learning_rate": 3e-3,
            "beta2": 0.95,
        }
        rate = changes.get("learning_rate", usual["learning_rate"])
        return TrainConfig(**{**usual, "min_learning_rate": rate / 20, **changes})

    def trained(self, seed=0, make=adamw, ids=None, objective=CausalLM, dress=lambda model: model, sizes=None,
                **changes):  # fmt: skip
        """(model, losses) after a small training."""
        model = self.model(seed, dress, **(sizes or {}))
        return model, fit(objective(model), self.batches(ids, seed), self.settings(**changes), make)


def fit(objective: nn.Module, batch_at: Callable, config: TrainConfig, make=adamw,
        watch: Callable[[int], object] = lambda step: None) -> list[float]:  # fmt: skip
    """The loss of every update, after which watch(step) may look at the model.

    A run that breaks is not stopped by an error: it ends with its last loss, NaN."""
    optimizers, losses = make(objective, config), []
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    for step in range(config.steps):
        loss = objective(batch_at(step))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), config.clip or math.inf)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                first = group.setdefault("initial_lr", group["lr"])
                group["lr"] = first * learning_rate(step, config) / config.learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        watch(step)
    return losses


@torch.no_grad()
def activations(model: GPT, batch) -> list[torch.Tensor]:
    """What leaves each block, and the final norm, on a batch: (B * T * C,) each."""
    seen, hooks = [], []
    for module in (*model.blocks, model.norm):
        hooks.append(module.register_forward_hook(lambda m, i, y: seen.append(y.float().flatten())))
    model(batch[0])
    for hook in hooks:
        hook.remove()
    return seen


def smooth(losses: list[float], over: int = 20) -> list[float]:
    """The mean of the last `over` losses at each update, for a line that can be read."""
    return [sum(part) / len(part) for part in (losses[max(0, i - over) : i + 1] for i in range(len(losses)))]


def score(lab: Lab, model: GPT, characters: int = 500) -> tuple[float, str]:
    """(share of sentences of a sample that the town could say, the sample)."""
    pages = (probe.write(model, lab.tokenizer, seed=seed, max_tokens=lab.context - 2) for seed in count())
    sample = "\n\n".join(islice(_text.at_most(pages, characters), 10))
    return TinyTown().grammar_score(sample), sample
