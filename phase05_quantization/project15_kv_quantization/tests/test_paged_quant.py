"""Pages of codes: the family's promises, the engine's tokens, nothing left behind, scales that go along."""

import functools
import random
from types import SimpleNamespace

import pytest
import torch

from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT, set_attend
from common.testing import check_cache, tiny, trained
from phase03_core_inference.project08_kv_cache.kv_cache import caches_for, decode, drawn
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine
from phase05_quantization.project15_kv_quantization import paged_quant
from phase05_quantization.project15_kv_quantization.kv_quant import QuantizedCache
from phase05_quantization.project15_kv_quantization.paged_quant import QuantizedStore
from phase05_quantization.project15_kv_quantization.rows import Format

FORM = Format(8, 4, 4)


@functools.cache
@torch.enable_grad()
def model():
    """Counts on in strides; trained only where a test wants it."""
    return trained()


@functools.cache
def untrained():
    """Where it does not matter what is written."""
    return GPT(tiny()).double().eval()


def made(blocks=64, *, prefix=False, away=0, form=FORM, size=4, rows=4, step=12, of=None):
    of = of or model()
    store = QuantizedStore(of, blocks, size, form=form, away=away)
    return Engine(of, store, max_batch=rows, max_step_tokens=step,
                  prefix=PrefixIndex(size) if prefix else None)  # fmt: skip


def nothing_is_held(engine):
    """No table, no place of an open page, nothing valid but what the prefix index keeps."""
    store = engine.store
    assert not store.tables and not store.held and not store.saved and not store.floating
    assert len(store.free) + len(store.idle) == len(store.refs) and store.coded == store.idle
    assert sorted(store.spare) == list(range(len(store.layers[0].k)))


# ---- one block, by hand ----


class AnyPages:
    """Pages for B rows at whatever positions come: what `check_cache` drives."""

    def __init__(self, B, K, D, size, form):
        one = GPT(tiny(n_layer=1, n_head=K, n_kv_head=K, head_dim=D, vocab_size=3))
        self.store, self.rows = QuantizedStore(one, B * -(-size // form.group), form.group, form=form), B
        for row in range(B):
            self.store.open(row, [0])

    def update(self, k, v, positions):
        step = SimpleNamespace(ids=range(self.rows), positions=positions.expand(self.rows, -1))
        for row in step.ids:
            n = max(self.store.held[row], int(step.positions[row].max()) + 1)
            assert self.store.reserve(row, n)
        return self.store.caches(step)[0].update(k, v, positions)


@pytest.mark.parametrize("form, off", [(FORM, 0.02), (Format(4, 8, 2), 0.32)])
def test_pages_keep_their_promises(form, off):
    """Ragged rows, rollback into closed pages, refusals: as any addressed cache, but for the rounding."""
    check_cache(lambda B, K, D, size: AnyPages(B, K, D, size, form), lossy=off)


@pytest.mark.exercise("QuantizedStore.settle")
def test_settle_by_hand():
    """Five pages of 4, and the first 13 tokens are old: three close, and their places are spare."""
    store = made(blocks=8, of=untrained()).store
    store.open(7, [1])
    store.reserve(7, 18)
    for page in store.tables[7]:
        store.unlock(page)
    for layer in store.layers:
        layer.k.normal_(), layer.v.normal_()
    before = [[x.clone() for x in layer.floats(page, store.floating[page])]
              for layer in store.layers for page in store.tables[7]]  # fmt: skip
    store.settle(7, 13)
    assert set(store.floating) == set(store.tables[7][3:]) and store.coded == set(store.tables[7][:3])
    assert len(store.spare) + len(store.floating) == len(store.layers[0].k)
    after = [layer.floats(page, store.floating.get(page))
             for layer in store.layers for page in store.tables[7]]  # fmt: skip
    for (k, v), (mine_k, mine_v) in zip(before, after, strict=True):
        assert (k - mine_k).abs().max() < 0.02 and (v - mine_v).abs().max() < 0.02
    store.settle(7, 13)  # again: nothing
    assert len(store.coded) == 3


def test_bytes_are_those_of_the_formula():
    """A page of codes takes what the form says; an open one as much as its floats."""
    store, size = made(blocks=10, form=Format(4, 8, 8), size=8).store, model().config
    codes = 10 * 8 * Format(4, 8).bytes_per_token(size.n_kv_head, size.head_dim) * size.n_layer
    assert store.nbytes == codes
    store.open(1, [1])
    store.reserve(1, 4)
    store.unlock(store.tables[1][0])
    page = 2 * 8 * size.n_kv_head * size.head_dim * 8 * size.n_layer
    assert store.nbytes == codes + 4 * page  # room is made for four at a time


# ---- in the engine ----


def test_matches_the_counting_cache():
    """One text at a time, whole prompts: groups close at the same moments, so the tokens are the same, drawn
    with 4 bits at a high temperature."""
    form = Format(4, 8, 8)
    for seed, n in enumerate((3, 9, 21)):
        ids = [(2 * i + seed) % 32 for i in range(n)]
        sampling = Sampling(max_tokens=20, temperature=1.5, seed=seed)
        engine = made(blocks=12, form=form, size=8, step=64)
        [answer] = engine.generate([ids], sampling)
        caches = caches_for(model(), functools.partial(QuantizedCache, form=form), 1, n + 20)
        want = decode(model(), torch.tensor([ids]), 20, caches, drawn([sampling]))
        assert list(answer.ids) == want[0].tolist()
        nothing_is_held(engine)


KINDS = [{}, {"prefix": True}, {"blocks": 14}, {"blocks": 14, "prefix": True}, {"blocks": 14, "away": 20}]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_random_traffic(options):
    """Arrivals, forks, cancellations, preemptions, shared beginnings: greedy texts are those of the full
    cache (8 bits leave a clear argmax alone), and nothing is left behind."""
    rng, engine = random.Random(3), made(**options)
    if "away" in options:
        from phase04_advanced_inference.project13_paged_attention.paged_attention import Swapping

        engine.scheduler = Swapping(engine.store, max_batch=4, max_step_tokens=12)
    asked, new = {}, {}
    for turn in range(60):
        if turn < 40 and rng.random() < 0.5:
            start, stride, n = rng.randrange(3), rng.randrange(1, 3), rng.randrange(1, 25)
            ids = [(start + stride * i) % 32 for i in range(rng.randrange(1, 24))]
            asked[engine.add(ids, Sampling(max_tokens=n, temperature=0))] = ids, n
        alive = sorted(engine.sequences)
        if alive and rng.random() < 0.1:
            id = rng.choice(alive)
            text = list(engine.sequences[id].ids)
            if len(text) < 36:
                asked[engine.fork(id, Sampling(max_tokens=6, temperature=0))] = text, 6
        if alive and rng.random() < 0.08:
            engine.cancel(rng.choice(alive))
        for event in engine.step():
            new.setdefault(event.id, []).extend(event.ids)
    while engine.busy:
        for event in engine.step():
            new.setdefault(event.id, []).extend(event.ids)
    assert len(asked) > 14 and bool(engine.stats()["preemptions"]) == ("blocks" in options)
    for id, (ids, n) in asked.items():
        [answer] = generate(model(), [ids], Sampling(max_tokens=n, temperature=0))
        assert new[id] == list(answer.ids)[: len(new[id])]
    nothing_is_held(engine)


@pytest.mark.exercise("QuantizedStore.settle")
def test_a_shared_page_has_its_scales_with_it():
    """A second text with the same beginning reads the very codes that the first one left."""
    engine, ids = made(prefix=True, blocks=40, of=untrained()), list(range(1, 22))
    engine.generate([ids], Sampling(max_tokens=8, temperature=0))
    kept = sorted(engine.store.cached)
    assert len(kept) == 7 and engine.store.coded == set(kept)
    before = [x[kept].clone() for layer in engine.store.layers for x in layer.codes]
    fed = engine.stats()["tokens fed"]
    engine.generate([[*ids[:20], 3]], Sampling(max_tokens=4, temperature=0))
    assert engine.stats()["tokens fed"] - fed == 1 + 3
    after = [x[kept] for layer in engine.store.layers for x in layer.codes]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    nothing_is_held(engine)


def test_swapped_pages_come_back_bit_equal():
    """Codes and floats, into other pages."""
    store = made(blocks=12, away=12, of=untrained()).store
    store.open(1, [1])
    store.reserve(1, 15)
    for page in store.tables[1]:
        store.unlock(page)
    for layer in store.layers:
        layer.k.normal_(), layer.v.normal_()
    store.settle(1, 9)

    def contents():
        pairs = (store.held_by(layer, page) for page in store.tables[1] for layer in store.layers)
        return [x.clone() for pair in pairs for x in pair]

    before, pages = contents(), list(store.tables[1])
    assert store.swap_out(1)
    store.close(1)
    store.open(2, [1])
    store.reserve(2, 7)  # somebody else takes the first pages
    assert store.open(1, list(range(16))) == 15 and store.tables[1] != pages
    assert all(torch.equal(a, b) for a, b in zip(before, contents(), strict=True))


@pytest.mark.exercise("QuantizedStore.settle")
def test_is_on(monkeypatch):
    """Decoding makes codes, and reads them: where either raises, so does the engine."""
    engine = made(of=untrained())
    engine.add([1, 2, 3], Sampling(max_tokens=20, temperature=0))
    for _ in range(14):
        engine.step()
    assert len(engine.store.coded) == 2 and len(engine.store.floating) == 2  # 15 tokens, a window of 4

    def broken(*args):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(paged_quant, "dequantize", broken)
    with pytest.raises(ZeroDivisionError):
        engine.step()


def test_wrong_use_raises():
    with pytest.raises(UserError, match="pages of 16 tokens do not hold whole groups of 64"):
        QuantizedStore(model(), 4, 16, form=Format(8, 64))
    with pytest.raises(UserError, match="a group of 12 does not divide the 16 channels"):
        QuantizedStore(GPT(tiny(head_dim=16)), 4, 12, form=Format(8, 12))
    store = made(blocks=4).store
    store.open(1, [1])
    store.reserve(1, 2)
    step = SimpleNamespace(ids=(1,), positions=torch.tensor([[0, 1]]))
    cache, k = store.caches(step)[0], torch.zeros(1, 2, 2, 8)
    for wrong in (torch.arange(2), torch.tensor([[1, 2]])):
        with pytest.raises(UserError, match="positions"):
            cache.update(k, k, wrong)


def test_other_attends_work_on_pages():
    """Pages return floats, so any attend will do: project 13's, which gathers what it does not know."""
    from phase04_advanced_inference.project13_paged_attention import paged_attention

    ids, sampling = list(range(9)), Sampling(max_tokens=12, temperature=0)
    want = made().generate([ids], sampling)[0].ids
    other = GPT(model().config).double()
    other.load_state_dict(model().state_dict())
    set_attend(other, paged_attention.attend)
    store = QuantizedStore(other, 20, 4, form=FORM)
    assert Engine(other, store, max_batch=2, max_step_tokens=12).generate([ids], sampling)[0].ids == want
