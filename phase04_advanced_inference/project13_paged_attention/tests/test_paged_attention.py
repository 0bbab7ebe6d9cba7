"""Attention over pages, and the engine on them: the same tokens as anywhere else, and nothing left behind."""

import functools
import random

import pytest
import torch
import torch.nn.functional as F

from common import hub
from common import model as core
from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT, set_attend
from common.testing import check_attend, check_cache, close, tiny, trained
from phase04_advanced_inference.project13_paged_attention import paged_attention as pages
from phase04_advanced_inference.project13_paged_attention.paged_attention import (
    PagedCache,
    PagedStore,
    View,
    build_engine,
    gathered,
    paged,
)
from phase04_advanced_inference.project13_paged_attention.view import PIECE

model = functools.cache(lambda: trained(steps=40))  # only where a test wants it


@pytest.fixture(autouse=True)
def model_as_it_was():
    yield
    if model.cache_info().currsize:
        set_attend(model(), core.attend)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Scattered:
    """Rows of 3, 17 and 9 tokens in blocks of 4 all over a pool of NaN; T queries stand at their ends."""

    def __init__(self, T=1, H=4, K=2, dtype=torch.float64, lengths=(3, 17, 9), size=4, D=16):
        need = max(16, sum(-(-n // size) for n in lengths))
        blocks = torch.randperm(need, generator=torch.Generator().manual_seed(1)).tolist()
        self.k, self.v = (torch.full((len(blocks), K, size, D), torch.nan, dtype=dtype) for _ in "kv")
        self.tables = [[blocks.pop() for _ in range(-(-n // size))] for n in lengths]
        self.known = [[drawn(K, n, D, seed=i + j, dtype=dtype) for i, n in enumerate(lengths)]
                      for j in (0, 9)]
        for pool, rows in zip((self.k, self.v), self.known, strict=True):
            for table, row in zip(self.tables, rows, strict=True):
                for p in range(row.size(1)):
                    pool[table[p // size], :, p % size] = row[:, p]
        self.positions = torch.tensor([[n - T + t for t in range(T)] for n in lengths])
        self.view = View(self.tables, size, self.positions)
        self.q = drawn(len(lengths), H, T, D, seed=5, dtype=dtype)

    def truth(self):
        """torch's attention for each row by itself, from its own stretch of keys and values."""
        answers = []
        for row, (k, v) in enumerate(zip(*self.known, strict=True)):
            look = torch.arange(k.size(1)) <= self.positions[row][:, None]
            answers.append(F.scaled_dot_product_attention(self.q[row], k, v, attn_mask=look, enable_gqa=True))
        return torch.stack(answers)


LONG = (2 * PIECE + 5, 3, PIECE, PIECE + 1)  # rows of three pieces, of one, of one that is full, of two


@pytest.mark.exercise("paged", "View.entries", "View.locate")
@pytest.mark.parametrize(("T", "H", "K"), [(1, 4, 2), (3, 4, 2), (1, 4, 4), (2, 6, 1)])
def test_matches_sdpa(T, H, K):
    """Each row as torch's attention has it from a stretch; the NaN around them are not read. Some of the
    queries see nothing of their row's last piece."""
    for lengths in ((3, 17, 9), LONG):
        made = Scattered(T, H, K, lengths=lengths, D=8)
        answer = paged(made.q, made.k, made.v, made.view)
        close(answer, made.truth(), f"{T} queries, {H} heads over {K}, rows of {lengths}")


@pytest.mark.parametrize("size", [1, 16])
def test_matches_sdpa_in_float32(size):
    made = Scattered(2, dtype=torch.float32, lengths=LONG, size=size)
    close(paged(made.q, made.k, made.v, made.view), made.truth(), f"float32, blocks of {size}")


def test_once_more_over_what_was_there():
    """Layers share the matrix, whose values are those of the layer before: they are not added to."""
    made = Scattered(1, lengths=LONG)
    first = paged(made.q, made.k, made.v, made.view)
    paged(7 * made.q, made.v, made.k, made.view)
    assert torch.equal(paged(made.q, made.k, made.v, made.view), first)


@pytest.mark.exercise("paged")
def test_large_scores():
    """Scores of some thousands, where exp alone is infinite."""
    made = Scattered(1, lengths=LONG)
    made.q *= 2000
    close(paged(made.q, made.k, made.v, made.view), made.truth(), "large scores", rtol=1e-8, atol=1e-8)


@pytest.mark.exercise("View.locate")
def test_locate():
    """By hand: tables [5, 2] and [3], blocks of 4."""
    view = View([[5, 2], [3]], 4, torch.tensor([[5], [2]]))
    blocks, places = view.locate(torch.tensor([[0, 3, 4, 7], [0, 1, 2, 3]]))
    assert blocks.tolist() == [[5, 5, 2, 2], [3, 3, 3, 3]] and places.tolist() == [[0, 3, 0, 3], [0, 1, 2, 3]]
    blocks, places = view.locate(torch.tensor([[1], [5], [6]]), torch.tensor([1, 0, 0]))
    assert blocks.tolist() == [[3], [2], [2]] and places.tolist() == [[1], [1], [2]]
    assert [x.tolist() for x in view.new] == [[[2], [3]], [[1], [2]]]
    blocks, places = view.all
    assert blocks.tolist() == [[5, 5, 5, 5, 2, 2], [3] * 6]
    assert places.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 2, 2, 2]]


def test_pieces():
    """Short rows have few; the last of each goes beyond the row's end, not beyond the longest table."""
    rows, s = View([[0] * 64, [1]], 4, torch.tensor([[2 * PIECE], [PIECE - 1]])).pieces
    assert rows.tolist() == [0, 0, 0, 1] and s[:, 0].tolist() == [0, PIECE, 2 * PIECE, 0]
    assert (s[:, -1] - s[:, 0]).tolist() == [PIECE - 1] * 4
    assert View([[0, 1], [2]], 4, torch.tensor([[4], [0]])).pieces[1].tolist() == [list(range(8))] * 2


@pytest.mark.exercise("View.entries")
def test_entries():
    """By hand: one row of three tokens in blocks 1 and 0 of 2, two queries, four heads over two."""
    columns, seen = View([[1, 0]], 2, torch.tensor([[1, 2]])).entries(4, 2)
    # a pool (2 blocks, 2 key heads, 2 places): block 1 has 4, 5 of key head 0 and 6, 7 of head 1
    assert columns.tolist() == [[[4, 5, 0, 0]] * 2 + [[6, 7, 2, 2]] * 2]
    assert seen.tolist() == [[[[True, True, False, False], [True, True, True, False]]]]


@pytest.mark.exercise("PagedCache.write")
def test_written_where_the_table_says_and_nowhere_else():
    made = Scattered(2)
    before, cache = made.k.clone(), PagedCache((made.k, made.v), made.view)
    k, v = drawn(3, 2, 2, 16, seed=7), drawn(3, 2, 2, 16, seed=8)
    cache.write(k, v, made.positions)
    for pool, new in ((made.k, k), (made.v, v)):
        assert torch.equal(gathered(pool, *made.view.new), new)
    blocks, places = made.view.new
    made.k[blocks, :, places], before[blocks, :, places] = 9, 9
    assert torch.equal(made.k.nan_to_num(7), before.nan_to_num(7))
    for wrong in (torch.zeros(3, dtype=torch.long), made.positions + 1):
        with pytest.raises(UserError, match="positions"):
            cache.write(k, v, wrong)


class AnyCache:
    """Pages for B rows at whatever positions come: what `check_cache` and `check_attend` drive."""

    def __init__(self, B, K, D, size, dtype=torch.float32):
        each, self.most = -(-size // 3), torch.zeros(B, 1, dtype=torch.long)
        numbers = torch.randperm(B * each, generator=torch.Generator().manual_seed(0)).view(B, -1)
        self.tables = numbers.tolist()
        self.pool = tuple(torch.full((B * each, K, 3, D), torch.nan, dtype=dtype) for _ in "kv")

    def update(self, k, v, positions):
        view = View(self.tables, 3, positions)
        if positions.dim() == 2:  # the check goes back, and still asks for what lay beyond
            self.most = torch.maximum(self.most, positions.amax(1, keepdim=True))
            view.all = view.locate(torch.minimum(torch.arange(int(self.most.max()) + 1), self.most))
        return PagedCache(self.pool, view).update(k, v, positions)


@pytest.mark.exercise("PagedCache.write", "View.locate")
def test_cache_keeps_its_contract():
    check_cache(lambda B, K, D, size: AnyCache(B, K, D, size))


def test_attend_keeps_its_contract():
    """Without pages it is the core's."""
    check_attend(pages.attend)


@pytest.mark.exercise("PagedCache.write")
@pytest.mark.parametrize("T", [1, 3, pages.FEW + 1])
def test_attend_in_place_and_gathered_agree(T):
    made = Scattered(T, lengths=(12, 17, 9))
    k, v = drawn(3, 2, T, 16, seed=7), drawn(3, 2, T, 16, seed=8)
    found = []
    for fn in (pages.attend, core.attend):
        cache = PagedCache((made.k.clone(), made.v.clone()), made.view)
        found.append(fn(made.q, k, v, positions=made.positions, cache=cache))
    close(*found, f"{T} queries")


# ---- the engine ----


def request(rng):
    start, stride, n = rng.randrange(3), rng.randrange(1, 3), rng.randrange(1, 24)
    sampling = Sampling(max_tokens=rng.randrange(1, 25), temperature=rng.choice([0, 0, 1.5]),
                        seed=rng.getrandbits(32))  # fmt: skip
    return tuple((start + stride * i) % 32 for i in range(n)), sampling


@functools.cache
def solo(ids, sampling):
    """The contiguous cache: common's own loop, one text at a time."""
    set_attend(model(), core.attend)
    [answer] = generate(model(), [list(ids)], sampling)
    return answer.ids


def built(**options):
    sizes = {"blocks": 64, "size": 4, "max_batch": 4, "max_step_tokens": 12}
    return build_engine(model(), **{**sizes, **options})


def nothing_is_held(made):
    store = made.store
    assert not store.tables and not store.held and not store.away and not store.saved
    assert len(store.free) + len(store.idle) == len(store.refs)
    assert sum(store.refs) == len(store.cached) == len(store.idle)


KINDS = [{}, {"in_place": False}, {"size": 1, "blocks": 256}, {"prefix": True}, {"blocks": 12},
         {"blocks": 12, "away": 8}]  # fmt: skip


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_matches_the_contiguous_cache(options):
    """Arrivals one after the other, a fork, a cancellation, preemptions: to the token what each gets alone.
    (`test_soak` goes on for long, beside the contiguous engine.)"""
    rng, made = random.Random(3), built(**options)
    queue, asked, new, turn = [request(rng) for _ in range(10)], {}, {}, 0
    while queue or made.busy:
        if queue and turn % 2 == 0:
            ids, sampling = queue.pop()
            asked[made.add(ids, sampling)] = ids, sampling
        if turn == 7:
            first, sampling = min(made.sequences), Sampling(max_tokens=9, temperature=1.5, seed=1)
            asked[made.fork(first, sampling)] = tuple(made.sequences[first].ids), sampling
        if turn == 12:
            gone = max(made.scheduler.running)
            assert made.cancel(gone)
        for event in made.step():
            new.setdefault(event.id, []).extend(event.ids)
        turn += 1
    for id, (ids, sampling) in asked.items():
        truth = solo(ids, sampling)
        assert tuple(new[id]) == (truth[: len(new[id])] if id == gone else truth)
    assert made.stats()["finished"] == {"stop": 0, "length": 10, "cancelled": 1, "error": 0}
    assert bool(made.stats()["preemptions"]) == (options.get("blocks") == 12)
    nothing_is_held(made)


def test_a_shared_prefix_is_read_once_and_never_written():
    """The second request feeds only what is new, and the blocks are bit-equal to those first written."""
    made, ids = built(prefix=True, size=4, blocks=40), list(range(1, 20))
    made.generate([ids], Sampling(max_tokens=4, temperature=0))
    kept, fed = sorted(made.store.cached), made.stats()["tokens fed"]
    before = [x[kept].clone() for x in made.store.pages()]
    answers = made.generate([[*ids[:16], i, 5] for i in range(4)], Sampling(max_tokens=6, temperature=0))
    assert made.stats()["tokens fed"] - fed == 4 * (2 + 5)
    assert all(torch.equal(x[kept], y) for x, y in zip(made.store.pages(), before, strict=True))
    assert [answer.ids for answer in answers] == [
        solo((*ids[:16], i, 5), Sampling(max_tokens=6, temperature=0)) for i in range(4)]  # fmt: skip


def test_a_fork_shares_and_parts():
    """Four forks of a text: what is common has five owners, but for its last block; all tokens are right."""
    made, ids = built(blocks=60, max_batch=5), [*range(1, 30)]
    first = made.add(ids, Sampling(max_tokens=20, temperature=0))
    while len(made.sequences[first].ids) < 30:  # the last block then holds one token of four
        made.step()
    text = list(made.sequences[first].ids)
    forks = {made.fork(first, Sampling(max_tokens=8, temperature=2.0, seed=i)): i for i in range(4)}
    made.step()
    owners = [len(some) for some in made.store.owners()]
    assert owners.count(5) == (len(text) - 1) // 4
    new = {id: list(made.sequences[id].new) for id in forks}
    while made.busy:
        for event in made.step():
            new.get(event.id, []).extend(event.ids)
    made.step()
    for id, i in forks.items():
        want = solo(tuple(text), Sampling(max_tokens=8, temperature=2.0, seed=i))
        assert tuple(new[id][-8:]) == want
    nothing_is_held(made)


def test_swapped_tokens_are_not_read_again():
    """Preempted with room elsewhere: fewer tokens are fed than where they are read again."""
    fed = {}
    for away in (0, 60):
        made = built(blocks=12, away=away)
        made.generate([[i] * 12 for i in range(6)], Sampling(max_tokens=20, temperature=0))
        stats = made.stats()
        assert stats["preemptions"]
        fed[away] = stats["tokens fed"]
        nothing_is_held(made)
    assert fed[60] == 6 * 31 < fed[0]


def test_cancelled_while_swapped_out():
    made = built(blocks=12, away=60)
    ids = [made.add([i] * 12, Sampling(max_tokens=20, temperature=0)) for i in range(4)]
    while not made.store.away:
        made.step()
    for id in ids:
        assert made.cancel(id)
    made.step()
    nothing_is_held(made)


def test_is_on(monkeypatch):
    """The engine's decode really reads in place: where that raises, so does the engine."""
    made, calls = built(), []

    def watched(q, k, v, view):
        calls.append(q.shape)
        return paged(q, k, v, view)

    monkeypatch.setattr(pages, "paged", watched)
    made.generate([[1, 2], [3, 4, 5]], Sampling(max_tokens=4, temperature=0))
    assert len(calls) >= 2 * 4 and any(shape[0] == 2 for shape in calls)

    def gathers(pool, blocks, places):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(pages, "gathered", gathers)
    made.generate([[1, 2], [3, 4, 5]], Sampling(max_tokens=4, temperature=0))
    with pytest.raises(ZeroDivisionError):
        made.generate([[1] * 11], Sampling(max_tokens=1))


def test_matches_transformers(tmp_path):
    """Llama of tiny random weights, greedy, three texts of different lengths in one paged engine."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = GPT(tiny()).eval()
    for p in ours.parameters():
        p.data.mul_(4 if p.dim() > 1 else 1)
    hub.save(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompts = [[3, 14, 15, 9, 2, 6], [5, 35], [8] * 11]
    made = build_engine(ours, blocks=20, size=4, max_batch=3, max_step_tokens=16)
    answers = made.generate(prompts, Sampling(max_tokens=8, temperature=0))
    for ids, answer in zip(prompts, answers, strict=True):
        want = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=8, pad_token_id=0)
        assert list(answer.ids) == want[0, len(ids) :].tolist()


def test_wrong_requests_lose_nobody_elses():
    made = built(blocks=5, size=4)
    id = made.add([1, 2, 3], Sampling(max_tokens=9, temperature=0))
    for wrong in ([], [32], [1] * 21, "text"):
        with pytest.raises(UserError):
            made.add(wrong)
    assert not made.cancel(99)
    answer = [token for event in made.stream(id) for token in event.ids]
    assert tuple(answer) == solo((1, 2, 3), Sampling(max_tokens=9, temperature=0))
    assert not made.cancel(id)
    nothing_is_held(made)


def test_a_text_as_long_as_all_the_memory():
    """Five blocks of four: 20 tokens are fed, the 21st is drawn."""
    made = built(blocks=5, size=4)
    [answer] = made.generate([[1] * 20], Sampling(max_tokens=5, temperature=0))
    assert len(answer.ids) == 1 and answer.finish == "length"
    nothing_is_held(made)


def test_types_that_are_not_multiplied_in_place_are_gathered():
    torch.manual_seed(0)
    half = GPT(tiny()).eval().to(torch.bfloat16)
    made = build_engine(half, blocks=20, size=4)
    assert len(made.generate([[1, 2, 3]], Sampling(max_tokens=5, temperature=0))[0].ids) == 5
    assert PagedStore(half, 2).pools[0][0].dtype == torch.bfloat16
