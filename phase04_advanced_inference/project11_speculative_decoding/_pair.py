"""A model and who guesses for it: found, or trained on the spot; kept where the next run finds it."""

import hashlib
import sys
import tempfile
from dataclasses import asdict
from functools import cached_property

import torch
from safetensors.torch import load_file, save_file

from common import hub, tokenizer
from common.cli import chain
from common.cli.paths import models
from common.errors import demand
from common.files import whole_file, write_json
from common.hub_files import read_json
from data.tinytown import TinyTown
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for

from . import _fit
from .drafts import ModelDraft, PromptLookup
from .medusa import Medusa, MedusaDraft
from .rounds import Text, feed, speculate

UNSEEN = 2_000_000  # pages from this number on were read by nobody


def print_of(model):
    """A few letters that tell models apart: a hash of the embedding."""
    weights = model.embed.weight.detach().float().cpu().contiguous()
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]


def save(kind, made, model, words, folder, card):
    """A draft becomes a model folder; heads a file of weights and a card, of use for one model alone."""
    card = {**card, "kind": kind, "for": print_of(model)}
    if kind == "draft":
        return hub.save(made, folder, tokenizer=words, card=card)
    with whole_file(folder / "heads.safetensors") as part:
        save_file({name: tensor.cpu() for name, tensor in made.state_dict().items()}, part)
    write_json(folder / "card.json", {**card, "heads": len(made.layers)})


class Pair:
    """The model, its words, and its guessers. sizes: a `train.Config` for what has to be trained first.

    named: a draft's folder, or "" for models/draft where that was trained for this model.
    """

    def __init__(self, model, named, sizes, device, say=print):
        self.named, self.sizes, self.device, self.say = named, sizes, device, say
        self.place = chain.find("base", model, say=say)
        self.model, self.words = hub.load(self.place, device=device), tokenizer.load(self.place)

    @cached_property
    def small(self):
        """The draft model. UserError where it has another vocabulary."""
        place = hub.find(self.named) if self.named else self.kept("draft")
        made = hub.load(place, device=self.device) if place else self.trained("draft")
        ours, theirs = self.model.config.vocab_size, made.config.vocab_size
        alike = ours == theirs and (not place or tokenizer.load(place).sha256 == self.words.sha256)
        demand(alike, f"the draft has {theirs} ids and the model {ours}, of different tokenizers: a draft "
               "guesses ids, so both need the same; ./thirty run 11 train makes one")  # fmt: skip
        return made

    @cached_property
    def heads(self):
        """Medusa heads for the model."""
        place = self.kept("heads")
        if place is None:
            return self.trained("heads")
        made = Medusa(self.model.config.d_model, read_json(place / "card.json")["heads"])
        made.load_state_dict(load_file(place / "heads.safetensors"))
        return made.to(self.device).eval()

    def kept(self, kind):
        """models/draft or models/heads, if it was trained for this very model; else None."""
        place = models() / kind
        if not (place / "card.json").is_file():
            return None
        return place if read_json(place / "card.json").get("for") == print_of(self.model) else None

    def trained(self, kind):
        """A draft or heads made now, and saved as models/KIND if the sizes say so."""
        self.say(f"no models/{kind} for this model yet (./thirty run 11 train --kind {kind} makes it): "
                 f"trained first, {self.sizes.tokens:,} tokens")  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            made, loss = _fit.fit(kind, self.model, self.words, self.sizes, self.device, folder, say=self.say)
        if self.sizes.save:
            card = {"made_by": "project11_speculative_decoding", "command": " ".join(sys.argv),
                    "config": asdict(self.sizes), "model": self.place.name, "val_loss": loss}  # fmt: skip
            save(kind, made, self.model, self.words, models() / kind, card)
        return made

    def draft(self, how, K, rows=1, size=None, sure=0.0):
        """A guesser of K tokens a round: "model", "lookup" or "heads"."""
        if how == "model":
            return ModelDraft(self.small, K, rows, size, sure)
        if how == "heads":
            return MedusaDraft(self.model, self.heads, min(K, len(self.heads.layers)))
        return PromptLookup(K)

    def prompts(self, count, T):
        """Beginnings of T ids each of pages of TinyTown that nobody read."""
        found, page, town = [], UNSEEN, TinyTown()
        while len(found) < count:
            ids = self.words.encode(town.page(page))
            page += 1
            if len(ids) >= T:
                found.append(ids[:T])
        return found

    def copying(self, count, T, n):
        """Prompts whose text comes again: T + n ids, 16 others, and the first T once more.

        Each is (ids, the n ids that stood behind the T on the first time).
        """
        found, ids, pages = [], [], TinyTown().pages(start=UNSEEN)
        while len(found) < count:
            ids += self.words.encode(next(pages))
            if len(ids) >= T + n + 16:
                found.append((ids[: T + n + 16] + ids[:T], ids[T : T + n]))
                ids = []
        return found


class Counted:
    """A draft, and a count of its guesses: those that held, and those that were looked at to find that out.

    What stands behind the first wrong guess is never looked at.
    """

    def __init__(self, draft):
        self.draft, self.rounds, self.asked, self.right = draft, 0, 0, 0

    def __getattr__(self, name):
        return getattr(self.draft, name)

    def verify(self, text, logits):
        G, ids = len(text.guesses), self.draft.verify(text, logits)
        self.rounds, self.right = self.rounds + 1, self.right + len(ids) - 1
        self.asked += min(len(ids), G)
        return ids

    @property
    def acceptance(self):
        """The share that held, of those that were looked at."""
        return self.right / max(1, self.asked)

    @property
    def length(self):
        """Mean number of tokens that a round brought."""
        return 1 + self.right / max(1, self.rounds)


def written(model, prompts, samplings, draft):
    """(new ids of each, how many each round took): texts written together."""
    texts = [Text(i, ids, s, model) for i, (ids, s) in enumerate(zip(prompts, samplings, strict=True))]
    size = max(len(text.ids) + text.sampling.max_tokens for text in texts)
    taken = list(speculate(model, texts, draft, caches_for(model, StaticCache, len(texts), size)))
    return [text.new for text in texts], taken


def one_forward(model, tokens, held):
    """A call that feeds so many tokens behind `held` others, and takes the likeliest id after each."""
    caches, work = caches_for(model, StaticCache, 1, held + tokens), [(0, held, [2] * tokens)]

    @torch.no_grad()
    def call():
        return model.head(feed(model, caches, work)).argmax(-1).tolist()

    with torch.no_grad():
        feed(model, caches, [(0, 0, [1] * held)])
    return call


def steady(model, prompts, samplings, draft, rounds, now):
    """Tokens a second of texts written together, in `rounds` after the first one, which reads the prompts."""
    texts = [Text(i, ids, s, model) for i, (ids, s) in enumerate(zip(prompts, samplings, strict=True))]
    size = max(len(text.ids) + text.sampling.max_tokens for text in texts)
    going, tokens = speculate(model, texts, draft, caches_for(model, StaticCache, len(texts), size)), 0
    next(going)
    start = now()
    for _, took in zip(range(rounds), going, strict=False):  # in this order: else one more round is played
        tokens += sum(took.values())
    return tokens / (now() - start)


@torch.no_grad()
def is_tie(model, prompt, a, b, within=1e-4):
    """Do two answers agree, but for a step at which the two ids' logits lie within 1e-4?"""
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if x != y:
            logits = model(torch.tensor([[*prompt, *a[:i]]], device=model.embed.weight.device))[0, -1]
            return abs(logits[x] - logits[y]).item() < within
    return True
