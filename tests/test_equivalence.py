"""However a text comes about, its tokens are the same: a row for each way, and for ways together.

The truth is the naive loop: every token from the whole text anew, no cache, the core's attention. All else is
there to be quicker. In float64 the tokens are equal, greedy and drawn; in float32 the logits agree to 1e-5.
A row that would not use what it is named for fails `test_each_way_uses_its_technique`. A new technique is a
line in ROUTES, or a decorator around one. What is not exact is in test_bounded_error.py.
"""

import copy
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from common.generate import Sampling, generate
from common.model import GPT, Cache, attend, set_attend
from common.testing import close, tiny, trained
from phase03_core_inference.project08_kv_cache import kv_cache
from phase03_core_inference.project08_kv_cache.kv_cache import (
    GrowingCache,
    KVCache,
    StaticCache,
    caches_for,
    decode,
    decode_ragged,
    drawn,
    recompute,
)
from phase03_core_inference.project09_flash_attention import tiled
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixCache, PrefixIndex
from phase04_advanced_inference.project11_speculative_decoding.drafts import PromptLookup
from phase04_advanced_inference.project11_speculative_decoding.rounds import Text, speculate
from phase04_advanced_inference.project12_dynamic_batching import batching, scheduler, slots
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine, SlotStore
from phase04_advanced_inference.project13_paged_attention import paged_attention
from phase06_compression.project19_weight_sharing import layer_sharing
from phase07_architecture.project20_sparse_attention import block_sparse, learned, patterns
from phase07_architecture.project21_moe import moe, surgery
from phase07_architecture.project22_memory_efficient import chunked, split_k
from phase08_parallelism.project23_tensor_parallelism import groups, tensor_parallel
from phase08_parallelism.project23_tensor_parallelism.threads import ranks
from phase08_parallelism.project24_pipeline_parallelism import stages
from phase09_compiler.project27_early_exit import exits, self_speculation

START = [3, 5, 7, 9, 11, 13, 15, 17]  # what most prompts begin with
PROMPTS = [[*START, 19], [*START, 19, 21, 23], [4], [*START, 18, 20], [*START, 19, 21, 23, 25], [30, 1, 4, 7]]
SAMPLINGS = [
    Sampling(max_tokens=9, temperature=0, seed=0),
    Sampling(max_tokens=14, temperature=1.5, seed=1),
    Sampling(max_tokens=1, temperature=1.5, seed=2),
    Sampling(max_tokens=6, temperature=2.0, top_k=5, seed=3),
    Sampling(max_tokens=17, temperature=1.5, top_p=0.9, seed=4),
    Sampling(max_tokens=11, temperature=0, seed=5),
]


@pytest.fixture(scope="module")
def model():
    return trained()


# ---- ways to decode: route(model, prompts, samplings) -> a list of ids for each prompt ----


def alone(make):
    """Each prompt by itself; make(model, size): its caches."""

    def route(model, prompts, samplings):
        answers = []
        for ids, one in zip(prompts, samplings, strict=True):
            caches = make(model, len(ids) + one.max_tokens)
            answers += decode(model, torch.tensor([ids]), one.max_tokens, caches, drawn([one])).tolist()
        return answers

    return route


def by_common(model, prompts, samplings):
    """`common.generate`, each prompt by itself."""
    pairs = zip(prompts, samplings, strict=True)
    return [list(generate(model, [ids], one, eos_ids=())[0].ids) for ids, one in pairs]


def padded(model, prompts, samplings):
    """One batch of rows of different lengths; the short answers are cut off at the end."""
    n = max(one.max_tokens for one in samplings)
    caches = caches_for(model, StaticCache, len(prompts), max(map(len, prompts)) + n)
    rows = decode_ragged(model, prompts, n, caches, drawn(samplings)).tolist()
    return [row[: one.max_tokens] for row, one in zip(rows, samplings, strict=True)]


def after_prefix(model, prompts, samplings):
    """Prompts through one prefix cache, which by then knows how most of them begin."""
    cache, answers = PrefixCache(model, budget=64, block=4), []
    for ids, one in zip(prompts, samplings, strict=True):
        found, choose = cache.prefill(ids, one.max_tokens), drawn([one])
        first = choose(found.logits[None], 0)
        answers.append(first.tolist())
        if one.max_tokens > 1:
            rest = decode(model, first[None], one.max_tokens - 1, found.caches,
                          lambda logits, i, choose=choose: choose(logits, i + 1))  # fmt: skip
            answers[-1] += rest[0].tolist()
    return answers


def guessing(model, prompts, samplings):
    """Guesses looked up in each text itself, checked in one forward for all of them."""
    texts = [Text(i, ids, one, model) for i, (ids, one) in enumerate(zip(prompts, samplings, strict=True))]
    for _ in speculate(model, texts, PromptLookup(4), caches_for(model, StaticCache, len(texts), 64)):
        pass
    return [text.new for text in texts]


class Likeliest(self_speculation.EarlyDraft):
    """Guesses the likeliest, never by chance, so that texts that are drawn are those of their seeds."""

    def guess(self, texts, logits):
        for text, id in zip(texts, logits.argmax(-1).tolist(), strict=True):
            text.guesses.append(id)


def guessing_early(model, prompts, samplings):
    """Guesses by the first block of the model itself, checked by the others."""
    model, caches = exits.restore(copy.deepcopy(model), [1]), caches_for(model, StaticCache, len(prompts), 64)
    texts = [Text(i, ids, one, model) for i, (ids, one) in enumerate(zip(prompts, samplings, strict=True))]
    draft = Likeliest(model, 1, 3, caches)
    for _ in speculate(self_speculation.Resumed(model, draft), texts, draft, caches):
        pass
    return [text.new for text in texts]


def static_batches(model, prompts, samplings):
    """Batches of three, each until its longest answer ends."""
    answers = []
    for i in range(0, len(prompts), 3):
        some = samplings[i : i + 3]
        lengths = [one.max_tokens for one in some]
        answers += batching.run_batch(model, prompts[i : i + 3], lengths, drawn(some))
    return answers


def engine(prefix=None, draft=None, *, rows=3, step=8, budget=None, store=SlotStore):
    """Continuous batching. prefix, draft: called for a new one."""

    def route(model, prompts, samplings):
        made = Engine(model, store(model, rows, 40, budget=budget), max_batch=rows, max_step_tokens=step,
                      prefix=prefix and prefix(), draft=draft and draft())  # fmt: skip
        return [list(answer.ids) for answer in made.generate(prompts, samplings)]

    return route


def on_pages(model, rows, size, *, budget=None):
    """Project 13's store, in blocks of four tokens."""
    return paged_attention.PagedStore(model, (budget or rows * size) // 4, 4)


def attending(fn, route):
    """The same with another attention at the seam."""

    def changed(model, prompts, samplings):
        set_attend(model, fn)
        try:
            return route(model, prompts, samplings)
        finally:
            set_attend(model, attend)

    return changed


def with_experts(route):
    """The same with every feed-forward turned into four experts, copies of it, of which a token takes two."""

    def changed(model, prompts, samplings):
        config = moe.MoEConfig(experts=4, k=2)
        return route(surgery.upcycle(copy.deepcopy(model), config), prompts, samplings)

    return changed


def in_parts(world, route):
    """The same by so many ranks, each with a part of every matrix; they must all say the same."""

    def work(wire, model, *asked):
        return route(tensor_parallel.apply(copy.deepcopy(model), groups.Ring(wire)), *asked)

    def changed(model, prompts, samplings):
        answers = ranks(world, work, model, prompts, samplings)
        assert all(one == answers[0] for one in answers)
        return answers[0]

    return changed


def in_stages(count, route):
    """The same by a model cut into stages, one behind the other."""

    def changed(model, *asked):
        *front, last = stages.cut(model, count)

        def hidden(x):
            for stage in front:
                x = stage(x)
            return last.hidden(x)

        return route(SimpleNamespace(config=model.config, hidden=hidden, head=last.head), *asked)

    return changed


@dataclass(frozen=True)
class Way:
    """A route, and what it must use: (owner, name of its function, whether a result counts as used)."""

    route: object
    uses: tuple = ()


def index():
    return PrefixIndex(block=4)


def lookup():
    return PromptLookup(4)


GROWING, COUNTING, ADDRESSED = ((kind, "update") for kind in (GrowingCache, KVCache, StaticCache))
FLASH = tiled, "fold"
SPARSE, ROUTED = (block_sparse, "pieces"), (learned, "readers")
ALL_PAIRS = block_sparse.sparse(patterns.pattern(patterns.Near(5, 2), patterns.Near(None)))  # in two groups
ALL_BLOCKS = learned.routed(4, 99)
SLOTS = slots.SlotCache, "update"
HIT = PrefixIndex, "match", lambda found: found[0] > 0
GUESSED = PromptLookup, "verify", lambda ids: len(ids) > 1
EARLY = Likeliest, "verify", lambda ids: len(ids) > 1
RESUMED = self_speculation.Resumed, "hidden"
PREEMPTED = scheduler.Scheduler, "preempt"
PAGES = paged_attention.PagedCache, "write"
IN_PLACE = paged_attention, "paged"
CHUNKS = chunked, "attend_rows"
SHARES = split_k, "split", lambda y: y.size(2) == 1
CHUNKED, SPLIT = partial(chunked.attend, queries=5, keys=3), partial(split_k.attend, splits=3)
BATCHED = slots.SlotCache, "update", lambda kv: kv[0].size(0) > 1
EXPERTS = moe, "sort_by_expert"
PARTS = tensor_parallel.RowLinear, "forward"
STAGES = stages.Stage, "hidden"

ROUTES = {
    "generate": Way(by_common, [(Cache, "update")]),
    "cache that grows": Way(alone(lambda m, n: caches_for(m, GrowingCache, 1, n)), [GROWING]),
    "cache": Way(alone(lambda m, n: caches_for(m, KVCache, 1, n)), [COUNTING]),
    "addressed, padded": Way(padded, [ADDRESSED]),
    "flash": Way(attending(tiled.attend, alone(lambda m, n: None)), [FLASH]),
    "flash, cache": Way(attending(tiled.attend, alone(lambda m, n: caches_for(m, KVCache, 1, n))),
                        [FLASH, COUNTING]),
    "flash, padded": Way(attending(tiled.attend, padded), [FLASH, ADDRESSED]),
    "chunks": Way(attending(CHUNKED, alone(lambda m, n: None)), [CHUNKS]),
    "split, cache": Way(attending(SPLIT, alone(lambda m, n: caches_for(m, KVCache, 1, n))),
                        [SHARES, COUNTING]),
    "split, padded": Way(attending(SPLIT, padded), [SHARES, ADDRESSED]),
    "prefix": Way(after_prefix, [HIT, COUNTING]),
    "flash, prefix": Way(attending(tiled.attend, after_prefix), [FLASH, HIT]),
    "guesses": Way(guessing, [GUESSED]),
    "flash, guesses": Way(attending(tiled.attend, guessing), [FLASH, GUESSED]),
    "guesses, early": Way(guessing_early, [EARLY, RESUMED]),
    "static batches": Way(static_batches, [ADDRESSED]),
    "engine": Way(engine(), [SLOTS, BATCHED]),
    "engine, alone": Way(engine(rows=1), [SLOTS]),
    "engine, whole prompts": Way(engine(rows=6, step=64), [BATCHED]),
    "engine, preempted": Way(engine(budget=34), [BATCHED, PREEMPTED]),
    "engine, prefix": Way(engine(index), [BATCHED, HIT]),
    "engine, prefix, preempted": Way(engine(index, budget=34), [HIT, PREEMPTED]),
    "engine, flash": Way(attending(tiled.attend, engine()), [FLASH, BATCHED]),
    "engine, split": Way(attending(SPLIT, engine()), [SHARES, BATCHED]),
    "engine, guesses": Way(engine(None, lookup), [BATCHED, GUESSED]),
    "engine, guesses, prefix, preempted": Way(engine(index, lookup, budget=34), [GUESSED, HIT, PREEMPTED]),
    "engine, everything": Way(attending(tiled.attend, engine(index, lookup, budget=34)),
                              [FLASH, BATCHED, HIT, GUESSED, PREEMPTED]),
    "experts, cache": Way(with_experts(alone(lambda m, n: caches_for(m, KVCache, 1, n))),
                          [EXPERTS, COUNTING]),
    "engine, experts, guesses": Way(with_experts(engine(None, lookup)), [EXPERTS, BATCHED, GUESSED]),
    "2 ranks, cache": Way(in_parts(2, alone(lambda m, n: caches_for(m, KVCache, 1, n))), [PARTS, COUNTING]),
    "2 stages": Way(in_stages(2, alone(lambda m, n: None)), [STAGES]),
    "2 ranks, 2 stages": Way(in_parts(2, in_stages(2, alone(lambda m, n: None))), [PARTS, STAGES]),
    "4 ranks, engine, everything": Way(
        attending(tiled.attend, in_parts(4, engine(index, lookup, budget=34))),
        [PARTS, FLASH, BATCHED, HIT, GUESSED, PREEMPTED]),
    "sparse, cache": Way(attending(ALL_PAIRS, alone(lambda m, n: caches_for(m, KVCache, 1, n))),
                         [SPARSE, COUNTING]),
    "engine, sparse": Way(attending(ALL_PAIRS, engine()), [SPARSE, BATCHED]),
    "engine, routed": Way(attending(ALL_BLOCKS, engine()), [ROUTED, BATCHED]),
    "engine, paged, gathered": Way(engine(store=on_pages), [PAGES]),
    "engine, paged": Way(attending(paged_attention.attend, engine(store=on_pages)), [PAGES, IN_PLACE]),
    "engine, paged, split": Way(attending(SPLIT, engine(store=on_pages)), [PAGES, SHARES]),
    "engine, paged, flash": Way(attending(tiled.attend, engine(store=on_pages)), [PAGES, FLASH]),
    "engine, paged, guesses": Way(attending(paged_attention.attend, engine(None, lookup, store=on_pages)),
                                  [PAGES, IN_PLACE, GUESSED]),
    "engine, paged, everything": Way(
        attending(paged_attention.attend, engine(index, lookup, budget=36, store=on_pages)),
        [PAGES, IN_PLACE, HIT, GUESSED, PREEMPTED]),
}  # fmt: skip


@pytest.fixture(scope="module")
def truth(model):
    """The naive loop's answers, and drawing made a difference."""
    answers = alone(lambda model, size: None)(model, PROMPTS, SAMPLINGS)
    greedy = [recompute(model, torch.tensor([ids]), len(answer))[0].tolist()
              for ids, answer in zip(PROMPTS, answers, strict=True)]  # fmt: skip
    assert [a == b for a, b in zip(answers, greedy, strict=True)].count(False) >= 2
    return answers


@pytest.mark.parametrize("name", ROUTES)
def test_same_tokens(name, model, truth):
    assert ROUTES[name].route(model, PROMPTS, SAMPLINGS) == truth


class Used(Exception):
    """The technique was reached."""


@pytest.mark.parametrize("name", ROUTES)
def test_each_way_uses_its_technique(name, model, monkeypatch):
    """Made to raise where it is used, the technique makes the row raise."""
    for owner, what, *rest in ROUTES[name].uses:
        original, counts = getattr(owner, what), rest[0] if rest else lambda result: True

        def trapped(*args, original=original, counts=counts, **kwargs):
            result = original(*args, **kwargs)
            if counts(result):
                raise Used
            return result

        with monkeypatch.context() as patch:
            patch.setattr(owner, what, trapped)
            with pytest.raises(Used):
                ROUTES[name].route(model, PROMPTS, SAMPLINGS)


@pytest.mark.parametrize("name", ["cache", "flash, padded", "engine, everything", "engine, paged"])
def test_layers_that_share(name, model):
    """A block that runs twice has two caches, wherever they lie: the tokens of its two copies without any."""
    shared = layer_sharing.share(copy.deepcopy(model), (0,) * len(model.blocks))
    plain = alone(lambda model, size: None)(layer_sharing.unshared(shared), PROMPTS, SAMPLINGS)
    assert shared.blocks[0] is shared.blocks[1]
    assert ROUTES[name].route(shared, PROMPTS, SAMPLINGS) == plain


def test_the_truth_uses_no_cache(model, monkeypatch):
    for kind in (Cache, KVCache, StaticCache, GrowingCache, slots.SlotCache):
        monkeypatch.setattr(kind, "update", None)
    monkeypatch.setattr(kv_cache, "decode_ragged", None)
    assert len(recompute(model, torch.tensor([[3, 5]]), 4)[0]) == 4


# ---- logits, in float32 ----


def slot_caches(model, size):
    """A view of the third slot of three, one for each block."""
    store = SlotStore(model, 3, size)
    for id in range(3):
        store.open(id, [1])
    return store.caches(SimpleNamespace(ids=(2,), longest=size))


ATTENDS = {"core": attend, "flash": tiled.attend, "chunks": CHUNKED, "split": SPLIT}
CACHES = {
    "counting": lambda model, size: caches_for(model, KVCache, 1, size),
    "addressed": lambda model, size: caches_for(model, StaticCache, 1, size),
    "slots": slot_caches,
}


@pytest.mark.parametrize("chunk", [1, 5, 23])
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("name", ATTENDS)
@torch.no_grad()
def test_same_logits_in_float32(name, kind, chunk):
    """The logits of every token, read in chunks through a cache, beside one forward without: to 1e-5."""
    torch.manual_seed(0)
    model = GPT(tiny()).eval()
    for p in model.parameters():
        p.mul_(4 if p.dim() > 1 else 1)  # logits of about 1, so that 1e-5 says something
    tokens = torch.randint(97, (1, 23))
    want = model(tokens)
    assert 0.3 < want.std() < 30
    caches, got = CACHES[kind](model, 23), []
    set_attend(model, ATTENDS[name])
    for i in range(0, 23, chunk):
        part = tokens[:, i : i + chunk]
        where = {} if kind == "counting" else {"positions": i + torch.arange(part.size(1))[None]}
        got.append(model(part, caches=caches, **where))
    close(torch.cat(got, dim=1), want, f"{name}, {kind}, in chunks of {chunk}", rtol=1e-5, atol=1e-5)
