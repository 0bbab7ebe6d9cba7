"""What the experiments share: a model of any size to time, one of the chain to read, stores that watch."""

from functools import cached_property
from unittest.mock import patch

import torch

from common.cli import explore
from common.generate import Sampling
from common.model import GPT, ModelConfig
from data.tinytown import TinyTown

from ._workload import traffic
from .engine import Engine, SlotStore


class Lab(explore.Reader):
    """`timed`: untrained, of the settings' sizes, as weights do not change speed. `model`: of the chain."""

    @cached_property
    def timed(self) -> GPT:
        return self.build(self.config.n_layer, self.config.d_model)

    @cached_property
    def small(self) -> GPT:
        """For what is counted in steps, where any model will do."""
        return self.build(2, 64)

    def build(self, n_layer, d_model) -> GPT:
        """An untrained model, heads of 32."""
        torch.manual_seed(0)
        sizes = {"vocab_size": self.config.vocab_size, "max_seq_len": self.config.context}
        heads = {"n_head": d_model // 32, "n_kv_head": max(1, d_model // 64)}
        return GPT(ModelConfig(n_layer=n_layer, d_model=d_model, d_ff=8 * d_model // 3, tie_embeddings=True,
                               **sizes, **heads)).eval().to(self.device)  # fmt: skip

    @cached_property
    def pages(self) -> list[int]:
        """TinyTown as one row of ids of the chain's tokenizer."""
        return self.words.encode(TinyTown().text(20_000))

    def text(self, T, number=0) -> list[int]:
        """T ids of TinyTown, from another place for each number."""
        start = number * 997 % (len(self.pages) - T)
        return self.pages[start : start + T]

    def requests(self, count, **options):
        """Traffic for the timed model, which fits into its context."""
        c = self.config
        prompt = (2, max(3, c.context // 16))
        longest = min(400, c.context - prompt[1] - 1)
        return traffic(count, vocab_size=c.vocab_size, median=c.median, longest=longest, prompt=prompt,
                       seed=c.seed, **options)  # fmt: skip


class Watched(SlotStore):
    """Slots that note who was fed in which step: `log[step]` is a list of (slot, id, tokens fed).
    `most`: how many tokens lay there at once."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.log, self.written, self.most = [], {}, 0

    def caches(self, step):
        self.log[-1] += [(self.slot[id], id, n) for id, n in zip(step.ids, step.ns, strict=True)]
        self.written |= zip(step.ids, (step.positions.amax(1) + 1).tolist(), strict=True)
        self.most = max(self.most, sum(self.written.values()))
        return super().caches(step)

    def close(self, id):
        super().close(id)
        self.written.pop(id, None)


class Steps:
    """An engine whose clock counts steps, so that waiting is the same on every machine."""

    def __init__(self, model, slots, size, *, max_step_tokens=256, budget=None, max_batch=None, **options):
        self.now, self.store, self.first, self.ended = 0, Watched(model, slots, size, budget=budget), {}, {}
        self.engine = Engine(model, self.store, max_batch=max_batch or slots, clock=lambda: float(self.now),
                             max_step_tokens=max_step_tokens, **options)  # fmt: skip
        self.came, self.ids = {}, {}

    def add(self, prompt, n, **options):
        id = self.engine.add(prompt, Sampling(max_tokens=n, temperature=0, ignore_eos=True), **options)
        self.came[id], self.ids[id] = self.now, []
        return id

    def step(self):
        """One step; when each request had its first token and its last one."""
        self.store.log.append([])
        events = self.engine.step()
        self.now += 1
        for event in events:
            self.ids[event.id] += event.ids
            self.first.setdefault(event.id, self.now)
            if event.finish:
                self.ended[event.id] = self.now

    def drain(self, at_most=5000):
        """Until nothing is left to do."""
        while self.engine.busy and self.now < at_most:
            self.step()
        return self

    def wait(self, id):
        """Steps until the first token; None where there was none."""
        return self.first[id] - self.came[id] if id in self.first else None


def replaced(owner, name, fn):
    """A context in which a function or method is another one."""
    return patch.object(owner, name, fn)
