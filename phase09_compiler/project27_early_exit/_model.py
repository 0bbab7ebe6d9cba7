"""The model with ways out: named, found in models/early, or trained on the spot; and how it is judged."""

import copy
import math
import sys
import tempfile
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.paths import models
from common.errors import demand
from common.hub_files import read_json, sha256
from phase01_foundation.project03_pretrain.town import demand_context

from . import _fit
from .exit_loss import ExitLoss
from .exits import early_exit, restore
from .self_speculation import frequent

RESTORE = {"project27_early_exit": restore}


def origin(folder):
    """What tells the weights of a folder from others: their hash."""
    return sha256(folder / "model.safetensors") if (folder / "model.safetensors").is_file() else ""


def dressed(base, layers):
    """A copy of the base with those of these ways out that it has room for."""
    top = len(base.blocks)
    layers = [n for n in layers if n < top]
    demand(layers, f"a model of {top} blocks has no room for these ways out: name some below {top}")
    return restore(copy.deepcopy(base), layers)


class Source:
    """The model, its words and its text. sizes: a `train.Config`, for what has to be trained first."""

    def __init__(self, named, sizes, device, say=print):
        self.sizes, self.device, self.say = sizes, device, say
        self.place = chain.find("base", named, say=say)
        self.ready = bool(read_json(self.place / "config.json").get("surgery"))
        self.words = tokenizers.load(self.place)

    @cached_property
    def town(self):
        """Its text: enough for a training and to judge by."""
        return _fit.Town(self.words, self.sizes.plan.text, self.sizes.judged, self.device)

    @cached_property
    def base(self):
        """The model as it was before anything. UserError where it reads less than the context."""
        place = chain.find("base", say=self.say) if self.ready else self.place
        model = hub.load(place, device=self.device)
        demand_context(model, self.sizes.context)
        return model

    @cached_property
    def early(self):
        """The model with ways out that learned."""
        if self.ready:
            return hub.load(self.place, device=self.device, restore=RESTORE)
        kept = models() / "early"
        if (kept / "card.json").is_file() and read_json(kept / "card.json").get("from") == origin(self.place):
            return hub.load(kept, device=self.device, restore=RESTORE)
        self.say("no models/early for this model yet (./thirty run 27 makes it): trained first, "
                 f"{self.sizes.steps} updates")  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            objective = self.objective()
            self.town.fit(objective, self.sizes.plan, Path(folder) / "run", say=self.say)
        if self.sizes.save:
            self.save(objective.model, kept, {})
        return objective.model

    def objective(self):
        """What a copy of the base learns by."""
        c = self.sizes
        return ExitLoss(dressed(self.base, c.exits), c.weight, c.most)

    def save(self, model, folder, metrics):
        """A model folder, which says what it was made from."""
        card = {"made_by": "project27_early_exit", "command": " ".join(sys.argv),
                "config": asdict(self.sizes), "from": origin(self.place), "metrics": metrics}  # fmt: skip
        hub.save(model, folder, tokenizer=self.words, card=card)

    def tensor(self, ids):
        """One row (1, T) of ids, where the model is."""
        return torch.tensor([ids], device=self.device)

    def frequent(self, count):
        """The ids that the text holds most of."""
        return frequent(self.town.tune, count)

    def prompts(self, count, T, stream="held"):
        """So many pieces of T ids of pages that nobody learned from; UserError where they are too few."""
        ids = getattr(self.town, stream)
        rows = ids[: len(ids) // T * T].view(-1, T)
        demand(
            len(rows) >= count, f"{len(rows)} pieces of {T} tokens in the text, not {count}: more --judged"
        )
        return rows[:: max(1, len(rows) // count)][:count]


@torch.no_grad()
def quality(model, ids, rule, context):
    """How early answers are beside the full model's, over windows of ids (N,) that do not overlap.

    {"loss", "full": nats a token, "perplexity": the first's over the second's, "same": the share of likeliest
    tokens that agree, "depth": blocks a token, "by window": [(loss, full), ...]}
    """
    windows, sums, pairs = ids.unfold(0, context + 1, context), {"same": 0.0, "depth": 0.0}, []
    for row in windows.split(8):
        tokens, targets = row[:, :-1], row[:, 1:]
        logits, left = early_exit(model, tokens, rule)
        plain = model(tokens)
        sums["same"] += (logits.argmax(-1) == plain.argmax(-1)).sum().item()
        sums["depth"] += left.sum().item()
        nats = [F.cross_entropy(x.transpose(1, 2).float(), targets, reduction="none").mean(1).tolist()
                for x in (logits, plain)]  # fmt: skip
        pairs += zip(*nats, strict=True)
    n = windows.size(0) * context
    early, full = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    return {"loss": early, "full": full, "perplexity": math.exp(early - full), "by window": pairs,
            **{key: value / n for key, value in sums.items()}}  # fmt: skip


@torch.no_grad()
def read_on(caches, ids, T, rule):
    """Read a page (N,) token by token, T of them as the prompt: (nats a token of the rest, its likeliest ids,
    after how many blocks each token left)."""
    logits, nats, said, left = caches.prefill(ids[None, :T]), [], [], []
    for i in range(T, len(ids)):
        said.append(int(logits.argmax()))
        nats.append(F.cross_entropy(logits.float(), ids[i : i + 1]))
        if i + 1 < len(ids):
            logits, depth = caches.step(ids[None, i : i + 1], rule)
            left.append(depth)
    return torch.stack(nats).mean().item(), said, left
