"""The engine of projects 10 to 15, put together by switches, as a server needs it.

Came before: `build_engine` of project 13, for one who trusts all its callers. New here, for strangers: what a
request may know of others is nothing. A prefix index that all share answers a stranger's question, "has
anybody sent this text before?", by how soon the first token comes. So the index keeps a tree for each
*space*, by default one for each key: the space stands in front of a prompt's first block (vLLM's cache salt).
And a request may bring a guide, which says at each step what may follow (`json_mode.py`).

Seam: the engine's own; nothing of it is copied. Kwon et al. 2023, 2309.06180; Gu et al. 2025, 2502.07776
(auditing prompt caching in language model APIs: the side channel, measured on real services).
"""

import math
from dataclasses import dataclass

import torch

from common.errors import demand
from common.generate import Sampling
from common.model import Embedding, set_attend
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex
from phase04_advanced_inference.project11_speculative_decoding.drafts import PromptLookup
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, Event
from phase04_advanced_inference.project12_dynamic_batching.slots import SlotStore
from phase04_advanced_inference.project13_paged_attention import paged_attention
from phase04_advanced_inference.project13_paged_attention.paged_attention import PagedStore
from phase05_quantization.project14_ptq import integer, rtn
from phase05_quantization.project15_kv_quantization.paged_quant import QuantizedStore
from phase05_quantization.project15_kv_quantization.rows import Format


@dataclass(frozen=True)
class Switches:
    """Which of the techniques are on, and how much room there is."""

    prefix_cache: bool = True
    """Project 10: prompts that begin alike share the keys and values of their beginning."""
    paged: bool = True
    """Project 13: memory in blocks; off, a slot of the longest length for each request."""
    speculative: str = "off"
    """Project 11: ngram guesses from the text itself; off."""
    kv: str = "float"
    """Project 15: int8 keeps full blocks of keys and values in codes; float."""
    weights: str = "float"
    """Project 14: int8 rounds matrices, embedding and head to 8 bits; float."""
    compile: bool = False
    """Project 25's tool: the parts of a block that see no cache, compiled, at the start."""
    max_batch: int = 32
    """Requests that run at a time."""
    max_step_tokens: int = 512
    """Tokens that one forward is fed at most: a long prompt is read in such chunks."""
    tokens: int = 16384
    """Room for keys and values, in tokens of all requests together."""
    guesses: int = 4
    """Of ngram, a step."""
    shared_prefixes: bool = False
    """Let all keys share one prefix cache: quicker, and each can find out what others have asked."""

    def __post_init__(self):
        for name, known in (("speculative", ("off", "ngram")), ("kv", ("float", "int8")),
                            ("weights", ("float", "int8"))):  # fmt: skip
            value = getattr(self, name)
            demand(value in known, f"{name} must be {' or '.join(known)}, not {value!r}")
        demand(self.kv == "float" or self.paged, "kv int8 keeps its codes in blocks: it takes paged")
        demand(self.guesses >= 1 and self.tokens >= 64, "guesses must be at least 1, tokens at least 64")

    @property
    def size(self):
        """Tokens a block: where codes share scales by the block, larger ones."""
        return 64 if self.kv == "int8" else 16


# ---- what is kept apart ----


class PrivateIndex(PrefixIndex):
    """A prefix index of many trees in one: `space`, whoever asks just now, stands in the first block's
    key."""

    space = ""

    def keys(self, ids):
        keys = super().keys(ids)
        return [(self.space, *keys[0]), *keys[1:]] if keys else keys


class Apart:
    """In front of a Store: before the index is asked or told, it learns whose request this is.

    spaces: {sequence: its space}; known: {sequence: prompt tokens that were there already}; asked and found:
    tokens looked up, and found, since the start.
    """

    def __init__(self, *args, **options):
        self.spaces, self.known, self.asked, self.found = {}, {}, 0, 0
        super().__init__(*args, **options)

    def open(self, id, ids):
        self.enter(id)
        n = super().open(id, ids)
        if self.prefix is not None and id not in self.known:  # not again after it was preempted
            self.known[id] = n
            self.asked, self.found = self.asked + len(ids), self.found + n
        return n

    def keep(self, id, ids):
        self.enter(id)
        super().keep(id, ids)

    def enter(self, id):
        if self.prefix is not None:
            self.prefix.space = self.spaces.get(id, "")


class Slots(Apart, SlotStore):
    """Project 12's slots."""


class Pages(Apart, PagedStore):
    """Project 13's pages."""


class Codes(Apart, QuantizedStore):
    """Project 15's pages of codes."""


# ---- who guesses, and who is guided ----


@dataclass(frozen=True)
class Ended(Event):
    """The last event of a request. cached: how many tokens of its prompt were there already; proposed and
    accepted: tokens that were guessed for it, and those of them that were right."""

    cached: int = 0
    proposed: int = 0
    accepted: int = 0


class Lookup(PromptLookup):
    """Project 11's guesses from the text, counted; a guided text gets none, as its guide was not asked.

    proposed, accepted: of all texts since the start; tally: {text: (proposed, accepted)} of those that run.
    """

    def __init__(self, K, guides):
        super().__init__(K)
        self.guides, self.proposed, self.accepted, self.tally = guides, 0, 0, {}

    def propose(self, texts):
        super().propose([text for text in texts if text.id not in self.guides])

    def verify(self, text, logits):
        ids = super().verify(text, logits)
        guessed, right = len(text.guesses), len(ids) - 1
        self.proposed, self.accepted = self.proposed + guessed, self.accepted + right
        before = self.tally.get(text.id, (0, 0))
        self.tally[text.id] = before[0] + guessed, before[1] + right
        return ids


class ServingEngine(Engine):
    """Project 12's engine, with spaces and guides.

    guides: {sequence: an object with allowed() -> ids or a bool mask (V,), and push(id)}.
    """

    def __init__(self, *args, switches, **options):
        self.switches, self.guides = switches, {}
        super().__init__(*args, **options)

    def begin(self, ids, sampling, *, tenant="", guide=None):
        """Queue a request of a tenant, whose prefixes are its own; returns its id. UserError as in `add`."""
        id = self.add(ids, sampling, tenant=tenant)
        self.store.spaces[id] = "" if self.switches.shared_prefixes else tenant
        if guide is not None:
            self.guides[id] = guide
        return id

    def _draw(self, ready, logits):
        for sequence, row in ready:
            if sequence.id in self.guides:
                allowed = self.guides[sequence.id].allowed().to(logits.device)  # (V,)
                logits[row] = logits[row].masked_fill(~allowed, -math.inf)
        return super()._draw(ready, logits)

    def _accept(self, sequence, ids, logprobs):
        guide = self.guides.get(sequence.id)
        for id in ids if guide else ():
            guide.push(id)
        return super()._accept(sequence, ids, logprobs)

    def _end(self, sequence, finish, **what):
        event = super()._end(sequence, finish, **what)
        self.guides.pop(sequence.id, None)
        self.store.spaces.pop(sequence.id, None)
        proposed, accepted = getattr(self.draft, "tally", {}).pop(sequence.id, (0, 0))
        return Ended(**vars(event), cached=self.store.known.pop(sequence.id, 0), proposed=proposed,
                     accepted=accepted)  # fmt: skip

    def used(self):
        """The share of the room for keys and values that requests hold; what the index alone has is free."""
        store = self.store
        if hasattr(store, "refs"):
            return 1 - (len(store.free) + len(store.idle)) / len(store.refs)
        return sum(store.held.values()) / store.budget


def prepared(model, switches):
    """The model with its own switches on: weights, compile. It is changed and returned."""
    if switches.weights == "int8":
        rtn.apply(model, 8)
        if type(model.embed) is Embedding:  # GPT-2's adds positions, and stays as it is
            rtn.apply_to_tables(model, 8)
        if model.norm.weight.device.type == "cpu":
            integer.plug(model)
    if switches.compile:
        for block in model.blocks:
            for part in (block.norm_attn, block.norm_ffn, block.ffn):
                part.compile(dynamic=True)
    return model


def assemble(model, tokenizer, switches, **options):
    """A ServingEngine over a model that is its own; UserError where the switches do not fit it."""
    model, size, n = prepared(model, switches).eval(), switches.size, switches.max_batch
    longest = min(model.config.max_seq_len, switches.tokens)
    if switches.kv == "int8":
        store = Codes(model, -(-switches.tokens // size), size, form=Format(8, size, size))
    elif switches.paged:
        store = Pages(model, -(-switches.tokens // size), size)
        set_attend(model, paged_attention.attend)
    else:
        n = min(n, switches.tokens // longest)  # so many of the longest length, and no more
        store = Slots(model, n, longest)
    index = PrivateIndex(size) if switches.prefix_cache else None
    engine = ServingEngine(model, store, switches=switches, max_batch=n, tokenizer=tokenizer, prefix=index,
                           max_step_tokens=max(n, switches.max_step_tokens), **options)  # fmt: skip
    if switches.speculative == "ngram":
        engine.draft = Lookup(switches.guesses, engine.guides)
    if switches.compile:  # now, rather than while somebody waits
        engine.generate([[0] * 4], [Sampling(max_tokens=3, temperature=0, ignore_eos=True)])
    return engine


@torch.no_grad()
def embedding(model, ids):
    """The mean of a text's hidden states, of length 1: (C,), float. ids: 1 to max_seq_len of them."""
    hidden = model.hidden(torch.tensor([ids], device=model.norm.weight.device))[0]  # (T, C)
    return torch.nn.functional.normalize(hidden.float().mean(0), dim=0)
