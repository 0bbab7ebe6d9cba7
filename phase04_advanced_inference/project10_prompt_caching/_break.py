"""Break: short keys, wrong positions, views instead of copies, giants, open doors, raw sums, blind seeds."""

import heapq
import random
import sys
import threading
import time
from collections import defaultdict
from contextlib import nullcontext

import numpy as np
import torch

from . import _dense, _fusion
from ._search import cloud
from ._trace import conversations
from .eviction import TokenStore, lru
from .hnsw import HNSW, exact
from .prefix_cache import PrefixCache, PrefixIndex, recompute
from .retrieval import BM25, fuse, raw, zscore
from .shared import Shared


def hundred(lab):
    """A key of the first 100 tokens only: whose answer it gives."""
    said, first, wrong, hits = conversations(lab.config.turns), {}, 0, 0
    for ids in said:
        known = first.setdefault(tuple(ids[:100]), ids)
        hits += known is not ids
        wrong += known is not ids and known != ids
    lab.say(f"  {hits} of {len(said)} requests hit, {wrong} of them with the answer to another prompt")
    lab.say(f"  the whole prompt as the key: {len(said) - len({tuple(i) for i in said})} hits, none wrong")
    return {"hits": hits, "wrong": wrong}


def text(lab, n, seed=0):
    """n tokens of TinyTown's pages."""
    row = [token for page in lab.pages[seed:] for token in page]
    return row[:n]


@torch.no_grad()
def distance(lab, got, want):
    """(nats of Kullback-Leibler between two next tokens, whether the likeliest is the same)."""
    p, q = (x.double().log_softmax(-1) for x in (want, got))
    return (p.exp() * (p - q)).sum().item(), float(p.argmax() == q.argmax())


def position(lab):
    """Blocks found by their own tokens, wherever they stood: a text that two prompts have at two places."""
    n = lab.model.config.max_seq_len // 4
    common, head, other = text(lab, n), text(lab, n, 3), text(lab, n // 2, 6)
    question = text(lab, n // 4, 9)
    right = recompute(lab.model, head + common + question)
    shared, found = PrefixCache(lab.model, 10**6, 4), {}
    shared.prefill(other + common)  # here it stands elsewhere, and behind another text
    for name, reused in (("by the whole path", False), ("by its own tokens", True)):
        if reused:
            caches = _from_elsewhere(lab, other, common, head, len(question))
            tokens = torch.tensor([question], device=lab.device)
            got = lab.model(tokens, caches=caches)[0, -1].detach()
        else:
            got = shared.prefill(head + common + question).logits
        nats, same = distance(lab, got, right)
        lab.say(f"  found {name}: {nats:.4f} nats off, the likeliest token is "
                f"{'the same' if same else 'another'}")  # fmt: skip
        found[f"nats, {name}"] = nats
    return found


@torch.no_grad()
def _from_elsewhere(lab, other, common, head, room):
    """Caches of head + common, in which common's keys are those of other + common."""
    cache, n = PrefixCache(lab.model, 10**6, 4), len(other)
    there = cache.prefill(other + common).caches
    here = cache.prefill(head, room=len(common) + room).caches
    positions = len(head) + torch.arange(len(common), device=lab.device)
    for mine, theirs in zip(here, there, strict=True):
        mine.update(theirs.k[:, :, n : n + len(common)], theirs.v[:, :, n : n + len(common)], positions)
    return here


def views(lab):
    """A shared prefix that somebody writes: blocks that are views of a request's caches, and copies."""
    prompt, found = text(lab, lab.model.config.max_seq_len // 2), {}
    right = recompute(lab.model, prompt)
    for name, kind in (("copies", PrefixCache), ("views", Views)):
        cache = kind(lab.model, 10**6, 4)
        done = cache.prefill(prompt)
        for held in done.caches:  # the request ends; its room is given to the next, which writes into it
            held.k.copy_(held.k.flip(2))
            held.v.copy_(held.v.flip(2))
        nats, same = distance(lab, cache.prefill(prompt).logits, right)
        lab.say(f"  {name}: the same prompt again is {nats:.4f} nats off, the likeliest token is "
                f"{'the same' if same else 'another'}")  # fmt: skip
        found[f"nats, {name}"] = nats
    return found


class Views(PrefixCache):
    """What goes wrong: it keeps slices of the request's caches."""

    def keep(self, ids, caches):
        block, end = self.index.block, len(ids) // self.index.block * self.index.block
        rows = [[x[:, :, i : i + block] for cache in caches for x in (cache.k, cache.v)]
                for i in range(0, end, block)]  # fmt: skip
        self.index.insert(ids[:end], rows)
        return True

    def load(self, blocks, caches):
        super().load([torch.stack([x[0] for x in row]) for row in blocks], caches)


def oversized(lab):
    """An item longer than the budget: a store that makes room first, and one that looks first."""
    store, emptied = TokenStore(1000, lru), {}
    for key in range(10):
        store.put(key, key, 100)
        emptied[key] = 100
    giant = 1500
    while emptied and sum(emptied.values()) + giant > 1000:
        emptied.pop(next(iter(emptied)))
    put = store.put("giant", 0, giant)
    lab.say(f"  room first: {len(emptied)} of 10 items are left, the budget is exceeded by {giant - 1000}")
    lab.say(f"  look first: {len(store)} of 10 items are left; {put.why}")
    return {"left, room first": len(emptied), "left, look first": len(store)}


class Slow(int):
    """A token whose hash takes a moment, in which another thread may run."""

    def __hash__(self):
        time.sleep(1e-5)
        return int.__hash__(self)


def race(door, rounds):
    """Two threads insert and evict the same prompts: (blocks counted, blocks there, errors, seconds)."""
    with door as index:
        counted = index
    errors, start = [], threading.Barrier(2)

    def work():
        for i in range(rounds):
            start.wait()
            ids = [Slow(token) for token in (i, i + 1, 7, 8)]
            try:
                with door as held:
                    held.insert(ids, [None, None])
                    held.evict(2 if i % 3 == 2 else 0)
            except Exception as error:  # whatever a broken tree raises
                errors.append(type(error).__name__)

    pair, began = [threading.Thread(target=work) for _ in range(2)], time.perf_counter()
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    return counted.blocks, len(counted.nodes()), errors, time.perf_counter() - began


def doors(lab):
    """Two threads in one index: the door open, and through the lock; how long they wait for each other."""
    rounds, found, before = max(10, lab.config.turns // 4), {}, sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for name, door in (("no lock", nullcontext(PrefixIndex(2))), ("the lock", Shared(PrefixIndex(2)))):
        counted, there, errors, spent = race(door, rounds)
        lab.say(f"  {name:9} {counted} blocks counted, {there} in the tree, {len(errors)} errors, "
                f"{spent:.2f} s")  # fmt: skip
        found[f"off, {name}"] = abs(counted - there) + len(errors)
    lab.say(f"  {door.queued} of {door.entries} entries had to wait, {door.waited:.2f} s together")
    sys.setswitchinterval(before)
    return {**found, "waited": door.queued / door.entries}


def scale(lab):
    """BM25's scores and cosines added as they are: how often the first passage is simply BM25's."""
    corpus, asked = lab.corpus, [_fusion.terms(question) for question in lab.corpus.questions]
    index = BM25([_fusion.terms(passage) for passage in corpus.texts])
    dense = _dense.vectors(lab.model, lab.words, corpus.questions + corpus.texts)
    dense, found = dense[: len(asked)] @ dense[len(asked) :].T, {}
    sparse = np.stack([index.scores(words) for words in asked])
    lab.say(f"  BM25 spreads by {sparse.std(1).mean():.2f} and up to {sparse.max():.1f}, the cosines by "
            f"{dense.std(1).mean():.3f}")  # fmt: skip
    for name, way in (("raw", raw), ("z-score", zscore)):
        fused = np.stack([fuse(s, d, 0.5, way) for s, d in zip(sparse, dense, strict=True)])
        best = fused.argmax(1)
        at_best = sparse[np.arange(len(best)), best] >= sparse.max(1) - 1e-9
        lab.say(f"  {name:8} the first passage is one of BM25's best for {at_best.mean():.1%} of questions")
        found[f"BM25's, {name}"] = at_best.mean()
    return found


def unseeded(lab):
    """A graph whose floors are drawn by chance: the same vectors, built twice, and who finds what."""
    points, queries = cloud(max(64, lab.config.points // 8), 64), cloud(40, 64, seed=1)
    found = {}
    for name, seeds in (("seeded", (0, 0)), ("unseeded", (random.random(), random.random()))):
        pair = []
        for seed in seeds:
            made = HNSW(64, M=4, ef_construction=10, seed=seed)
            for point in points:
                made.add(point)
            pair.append([made.search(query, 10, 10) for query in queries])
        differ = sum(one != other for one, other in zip(*pair, strict=True)) / len(queries)
        lab.say(f"  {name:9} {differ:.0%} of the answers differ between two builds")
        found[f"differ, {name}"] = differ
    return found


def heap(lab):
    """The ten nearest by a heap, the wrong way round: it throws the best away and keeps the worst."""
    points, queries = cloud(max(64, lab.config.points // 8), 64), cloud(20, 64, seed=1)
    found = defaultdict(float)
    for query in queries:
        want = set(exact(points, query, 10))
        for name, sign in (("right", -1), ("wrong way round", 1)):
            held = []
            for number, away in enumerate(((points - query) ** 2).sum(1)):
                heapq.heappush(held, (sign * away, number))
                if len(held) > 10:
                    heapq.heappop(held)  # Python's heap gives up the smallest
            found[name] += len(want & {number for _, number in held}) / 10 / len(queries)
    for name, recall in found.items():
        lab.say(f"  {name:16} recall at 10: {recall:.2f}")
    return dict(found)
