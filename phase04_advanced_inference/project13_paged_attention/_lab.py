"""What the experiments share: a small model to time, one of the chain to read, traffic, stores that watch."""

import random
from functools import cached_property

import torch

from common.cli import explore
from common.generate import Sampling
from common.model import GPT, ModelConfig
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore

from .block_manager import blocks_for, paged_waste
from .paged_attention import PagedStore


def lengths_of(count, *, median, longest, seed=0):
    """Log-normal lengths (sigma 1) of answers, cut at `longest`, as in project 12."""
    rng = random.Random(seed)
    return [min(longest, max(1, round(median * rng.lognormvariate(0, 1)))) for _ in range(count)]


def over_lives(lengths, size):
    """(mean tokens held, share of taken room that is empty) while texts grow from one token to these lengths,
    in blocks of `size`."""
    held = [n for length in lengths for n in range(1, length + 1)]
    return sum(held) / len(held), paged_waste(held, size)


def plain(n, seed=0, temperature=0.0):
    """Exactly n tokens."""
    return Sampling(max_tokens=n, temperature=temperature, seed=seed, ignore_eos=True)


def blank(vocab_size=97, context=2048, lively=False):
    """A model so small that only counting is left. lively: two layers of large weights, in float64, so that
    each token depends on all before it."""
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "d_model": 8, "d_ff": 8}
    if lively:
        sizes = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 64}
    model = GPT(ModelConfig(vocab_size=vocab_size, max_seq_len=context, **sizes)).eval()
    if lively:
        model = model.double()
        for p in model.parameters():
            p.data.mul_(12 if p.dim() > 1 else 1)
    return model


class WatchedPages(PagedStore):
    """Pages that note at every forward: sequences, tokens they hold, room of their tables; and all tables."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.log, self.films = [], []

    def caches(self, step):
        held = list(self.held.values())
        self.log.append((len(held), sum(held), self.size * sum(len(table) for table in self.tables.values())))
        if len(self.films) < 150:  # enough for a picture
            self.films.append(self.picture())
        return super().caches(step)


class WatchedSlots(SlotStore):
    """Slots that note the same."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.log = []

    def caches(self, step):
        held = list(self.held.values())
        self.log.append((len(held), sum(held), self.size * len(held)))
        return super().caches(step)


def served(store, model, requests, *, max_batch, max_step_tokens=256, prefix=None):
    """All of [(ids, n)] through an engine: (the engine, answers)."""
    engine = Engine(model, store, max_batch=max_batch, max_step_tokens=max_step_tokens, prefix=prefix)
    answers = engine.generate([ids for ids, _ in requests], [plain(n) for _, n in requests])
    return engine, [list(answer.ids) for answer in answers]


def over_time(log):
    """Of a store's log: (mean sequences, mean tokens of one, the share of the room taken that is empty)."""
    count, held, room = (sum(row[i] for row in log) for i in range(3))
    return count / len(log), held / count, 1 - held / room


class Lab(explore.Album):
    """`small`: untrained, for what is counted. `lively`: untrained, but what it says depends on the text."""

    @cached_property
    def small(self):
        return blank(context=self.config.context)

    @cached_property
    def lively(self):
        return blank(context=self.config.context, lively=True)

    def requests(self, count, shared=0):
        """[(ids, n)]: prompts of 4 to 40 tokens, of which the first `shared` are common, and answers."""
        c, rng = self.config, random.Random(self.config.seed)
        common = [rng.randrange(97) for _ in range(shared)]
        lengths = lengths_of(count, median=c.median, longest=c.context - 41 - shared, seed=c.seed)
        return [(common + [rng.randrange(97) for _ in range(rng.randint(4, 40))], n) for n in lengths]

    def blocks(self, tokens):
        return blocks_for(tokens, self.config.size)
