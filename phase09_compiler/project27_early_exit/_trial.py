"""What the bench measures on: the model with ways out, its twin, pages, a threshold chosen on other pages."""

import copy
import statistics
import tempfile
import time
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import torch

from common.benchmark import Stopwatch
from common.device import synchronize
from common.generate import Sampling
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, StaticCache, caches_for, decode
from phase04_advanced_inference.project11_speculative_decoding.rounds import Text, feed

from ._model import Source, quality
from .exits import Rule, Sure, exit_logits
from .kv_fill import Lagging, decode_early
from .self_speculation import Lower, Resumed, self_speculate
from .train import PRESETS, TRIED

FEW = 1024  # ids that guesses are made of


class Forced:
    """A chooser for `decode`: a page (N,) is read token by token; `said`: what the model would have said."""

    def __init__(self, page, T):
        self.page, self.T, self.said = page, T, []

    def __call__(self, logits, i):
        self.said.append(logits.argmax(-1))
        return self.page[self.T + i].expand(len(logits))


class Trial:
    """One bench's worth of models and text."""

    def __init__(self, b):
        self.b, self.device = b, b.device
        self.sizes = PRESETS["smoke" if b.mode == "smoke" else "cpu"]
        self.source = Source("", self.sizes, b.device, b.say)
        self.model, self.town = self.source.early.eval(), self.source.town
        self.top, self.ways = len(self.model.blocks), self.model.exits.layers
        self.T = b.pick(smoke=6, quick=32, full=32)
        self.n = b.pick(smoke=8, quick=64, full=192)
        self.pages = list(self.source.prompts(b.pick(smoke=2, quick=3, full=8), self.T + self.n))
        self.other = list(self.source.prompts(2, self.T + self.n, "tune"))
        self.few = self.source.frequent(FEW)

    def clock(self, call):
        """Seconds of a call: the median of several."""
        watch = Stopwatch(time.perf_counter, lambda: synchronize(self.device))
        watch(call)
        return statistics.median(watch(call)[0] for _ in range(self.b.pick(smoke=3, quick=15, full=41)))

    # ---- leaving ----

    @cached_property
    def rule(self):
        """The probe, from the lowest threshold that costs at most 1.5 % of perplexity on other pages."""
        chosen, ids = None, self.town.tune[: self.b.pick(smoke=200, quick=3_000, full=12_000)]
        for threshold in TRIED:
            if quality(self.model, ids, Sure("probe", threshold), self.sizes.context)["perplexity"] > 1.015:
                break
            chosen = threshold
        self.b.say(f"the probe lets go from {chosen}")
        return Rule() if chosen is None else Sure("probe", chosen)

    def plain(self):
        """What the full model says, reading each page token by token with project 8's loop and cache."""
        return [self.said(page, lambda prompt, choose: decode(
            self.model, prompt, self.n, caches_for(self.model, KVCache, 1, self.T + self.n), choose))
            for page in self.pages]  # fmt: skip

    def early(self):
        """What is said where tokens may leave."""
        return [self.said(page, lambda prompt, choose: decode_early(
            self.model, prompt, self.n, self.rule, choose)) for page in self.pages]  # fmt: skip

    def said(self, page, write):
        choose = Forced(page, self.T)
        write(page[None, : self.T], choose)
        return torch.cat(choose.said)

    def depths(self):
        """After how many blocks the tokens of the pages leave."""
        return [depth for page in self.pages
                for depth in decode_early(self.model, page[None, : self.T], self.n, self.rule,
                                          Forced(page, self.T))[1]]  # fmt: skip

    @torch.no_grad()
    def prices(self):
        """(the head, a look with the probe, a translator), for one token and in blocks."""
        model, caches = self.model, Lagging(self.model, 1, self.T + 1)
        caches.prefill(self.pages[0][None, : self.T])
        positions = torch.tensor([self.T], device=self.device)
        x, rope = model.embed(positions[None], positions), model.rope(positions)
        cache, probe = caches.caches[0], model.exits.probe[str(self.ways[0])]

        def block():
            cache.length = self.T
            return model.blocks[0](x, rope=rope, positions=positions, cache=cache)

        spent = self.clock(block)
        look = self.clock(lambda: bool((probe(x).squeeze(-1).sigmoid() >= 0.5).all()))
        head = self.clock(lambda: model.head(model.norm(x)))
        out = self.clock(lambda: exit_logits(model, self.ways[0], x))
        return head / spent, look / spent, max(0.0, out - head) / spent

    # ---- guessing ----

    def one_by_one(self):
        """Greedy text of each prompt: project 8's loop with its counting cache."""
        return [decode(self.model, page[None, : self.T], self.n,
                       caches_for(self.model, KVCache, 1, self.T + self.n))[0].tolist()
                for page in self.pages]  # fmt: skip

    def guessed(self, n, K, pages=None):
        """(the same with guesses after n blocks, how many ids each round took)"""
        texts, taken = [], []
        sampling = Sampling(max_tokens=self.n, temperature=0, ignore_eos=True)
        for page in self.pages if pages is None else pages:
            text = Text(0, page[: self.T].tolist(), sampling, self.model)
            taken += [took[0] for took in self_speculate(self.model, [text], n, K, self.few)]
            texts.append(text.new)
        return texts, taken

    @cached_property
    def best(self):
        """(n, K) with which text of other pages comes quickest."""
        ks = self.b.pick(smoke=(1, 2), quick=(2, 4), full=(1, 2, 3, 4, 5, 6, 8))
        found = {(n, K): self.clock_once(n, K) for n in self.ways for K in ks}
        return min(found, key=found.get)

    def clock_once(self, n, K):
        watch = Stopwatch(time.perf_counter, lambda: synchronize(self.device))
        self.guessed(n, K, self.other)
        return min(watch(lambda: self.guessed(n, K, self.other))[0] for _ in range(2))

    @torch.no_grad()
    def costs(self, n, K):
        """(a guess, what is left of a check of K), in decode steps."""

        def forward(model, tokens, head):
            caches = caches_for(self.model, StaticCache, 1, self.T + 16)[: len(model.blocks)]
            ids = self.pages[0].tolist()
            feed(model, caches, [(0, 0, ids[: self.T])])
            return self.clock(lambda: head(feed(model, caches, [(0, self.T, ids[:tokens])])[0]))

        nobody = SimpleNamespace(n=n, states={})  # a draft that has computed nothing
        lower, whole = Lower(self.model, n, self.few), Resumed(self.model, nobody)
        step = forward(self.model, 1, self.model.head)
        states = {tokens: forward(lower, tokens, lambda x: x) for tokens in (1, K + 1)}
        check = forward(whole, K + 1, whole.head) - states[K + 1] + states[1]
        return forward(lower, 1, lower.head) / step, check / step

    @torch.no_grad()
    def is_tie(self, page, ours, theirs, within=1e-4):
        """Do two texts agree, but for a step at which both ids' logits lie within 1e-4?"""
        for i, (x, y) in enumerate(zip(ours, theirs, strict=True)):
            if x != y:
                row = torch.tensor([[*page[: self.T].tolist(), *ours[:i]]], device=self.device)
                logits = self.model(row)[0, -1]
                return abs(logits[x] - logits[y]).item() < within
        return True

    # ---- the twin ----

    def twin(self):
        """A copy of the base, trained as long on the same batches, at the top alone."""
        with tempfile.TemporaryDirectory() as folder:
            objective = CausalLM(copy.deepcopy(self.source.base))
            self.town.fit(objective, self.sizes.plan, Path(folder) / "run")
        return objective.model
