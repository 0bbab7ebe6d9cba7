"""The index against a plain dictionary, and the cache against recomputing: to the bit where it copies."""

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase03_core_inference.project08_kv_cache.kv_cache import decode
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import (
    PrefixCache,
    PrefixIndex,
    recompute,
)


def loud(dtype=torch.float64):
    """A model whose attention matters: large weights, so that a wrong key shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny()).to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(8 if p.dim() > 1 else 1)
    return model


MODEL = loud()
# A machine that is busy, or stopped for a while, is no failure.
ANY_SPEED = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}


def ids(n, seed=0):
    return torch.randint(97, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def watch(model, monkeypatch):
    """The lengths of the rows that the model is given from now on."""
    fed, hidden = [], model.hidden

    def spy(tokens, **where):
        fed.append(tokens.size(1))
        return hidden(tokens, **where)

    monkeypatch.setattr(model, "hidden", spy)
    return fed


# ---- the index ----


@pytest.mark.exercise("PrefixIndex.walk", "PrefixIndex.insert")
def test_the_longest_beginning_is_found():
    """Whole blocks only, from the first on, and only while every token agrees."""
    index = PrefixIndex(2)
    assert index.match([1, 2, 3]) == (0, [])
    assert index.insert([1, 2, 3, 4, 5], ["a", "b"]) == ["a", "b"]
    assert index.match([1, 2, 3, 4, 5, 6]) == (4, ["a", "b"])
    assert index.match([1, 2, 3, 9]) == (2, ["a"]) and index.match([1, 2, 3]) == (2, ["a"])
    assert index.match([1]) == index.match([]) == index.match([1, 9, 3, 4]) == (0, [])
    assert index.match([3, 4]) == (0, []), "the same tokens at another place are other keys"
    assert index.match([9, 9, 3, 4]) == (0, []), "behind another beginning they are other keys"


@pytest.mark.exercise("PrefixIndex.walk")
def test_equal_hashes_are_told_apart():
    """-1 and -2 have one hash in Python, and so have tuples of them: still two prompts."""
    assert hash((-1, 5)) == hash((-2, 5))
    index = PrefixIndex(2)
    index.insert([-1, 5], ["a"])
    assert index.match([-2, 5]) == (0, [])
    index.insert([-2, 5], ["b"])
    assert index.match([-2, 5]) == (2, ["b"]) and index.match([-1, 5]) == (2, ["a"])


@pytest.mark.exercise("PrefixIndex.insert")
def test_what_is_there_keeps_its_handle():
    """Offered again, a block is not taken: the owner learns which of its handles it may free."""
    index = PrefixIndex(2)
    index.insert([1, 2, 3, 4], ["a", "b"])
    assert index.insert([1, 2, 7, 8], ["x", "c"]) == ["c"] and index.tokens == 6
    assert index.insert([1, 2, 3, 4], ["y", "z"]) == [] and index.tokens == 6
    assert index.match([1, 2, 7, 8])[1] == ["a", "c"]
    for handles in ([], ["a"], ["a", "b", "c"]):
        with pytest.raises(UserError, match="whole blocks"):
            index.insert([1, 2, 3, 4, 5], handles)


@pytest.mark.exercise("PrefixIndex.evict")
def test_the_longest_idle_leaf_goes_first():
    """Then its parent, if nothing else hangs on it; a match makes a whole path young."""
    index = PrefixIndex(1)
    index.insert([1, 2, 3], list("abc"))
    index.insert([1, 4], list("ad"))
    index.match([1, 2, 3])
    assert index.evict(1) == ["d"] and index.evict(2) == ["c", "b"] and index.tokens == 1
    assert index.match([1, 4]) == (1, ["a"])
    assert index.evict(0) == [] and index.evict(99) == ["a"] and index.evict(1) == [] and index.tokens == 0


@pytest.mark.exercise("PrefixIndex.evict")
def test_what_is_being_read_stays():
    """Held blocks, and all before them, survive any eviction; released once, they go."""
    index = PrefixIndex(2)
    index.insert([1, 2, 3, 4, 5, 6], list("abc"))
    n = index.hold([1, 2, 3, 4])
    assert n == 4 and index.hold([1, 2, 3, 4, 9, 9]) == 4
    assert index.evict(99) == ["c"] and index.tokens == 4
    index.release([1, 2, 3, 4])
    assert index.evict(99) == []
    index.release([1, 2, 3, 4])
    with pytest.raises(UserError, match="released twice"):
        index.release([1, 2, 3, 4])
    with pytest.raises(UserError, match="more than was held"):
        index.release([1, 2, 3, 4, 5, 6])
    assert index.evict(3) == ["b", "a"], "3 tokens are two blocks"


TOKENS = st.lists(st.integers(0, 2), max_size=7)


class Machine(RuleBasedStateMachine):
    """Any operations, against a dictionary from whole beginnings to handles."""

    def __init__(self):
        super().__init__()
        self.index, self.truth, self.held, self.fresh = PrefixIndex(2), {}, [], 0

    def known(self, ids):
        found = [tuple(ids[:n]) for n in range(2, len(ids) + 1, 2)]
        return [self.truth[key] for key in found if key in self.truth]

    @rule(ids=TOKENS)
    def insert(self, ids):
        handles = list(range(self.fresh, self.fresh + len(ids) // 2))
        self.fresh += len(handles)
        new = [i for i in range(len(handles)) if tuple(ids[: 2 * i + 2]) not in self.truth]
        assert self.index.insert(ids, handles) == [handles[i] for i in new]
        self.truth |= {tuple(ids[: 2 * i + 2]): handles[i] for i in new}

    @rule(ids=TOKENS)
    def match(self, ids):
        want = self.known(ids)
        assert self.index.match(ids) == (2 * len(want), want)

    @rule(ids=TOKENS)
    def hold(self, ids):
        self.held.append(tuple(ids[: self.index.hold(ids)]))

    @precondition(lambda self: self.held)
    @rule()
    def release(self):
        self.index.release(list(self.held.pop(0)))

    @rule(n=st.integers(0, 9))
    def evict(self, n):
        gone = self.index.evict(n)
        reading = {ids[:k] for ids in self.held for k in range(2, len(ids) + 1, 2)}
        free = [key for key in self.truth if key not in reading]
        assert len(gone) == min((n + 1) // 2, len(free))
        back = {handle: key for key, handle in self.truth.items()}
        for handle in gone:
            key = back[handle]
            assert key not in reading
            assert not any(k[: len(key)] == key and k != key for k in self.truth), "not a leaf"
            del self.truth[key]

    @invariant()
    def counts(self):
        assert self.index.tokens == 2 * len(self.truth) == 2 * len(self.index.nodes())


@pytest.mark.exercise("PrefixIndex.walk", "PrefixIndex.insert", "PrefixIndex.evict")
def test_matches_a_dictionary_of_all_beginnings():
    """A state machine: inserts, matches, holds, releases and evictions in any order."""
    machine = Machine.TestCase
    machine.settings = settings(max_examples=40, stateful_step_count=25, derandomize=True,
                                **ANY_SPEED)  # fmt: skip
    machine().runTest()


# ---- the cache ----


@pytest.mark.exercise("PrefixCache.prefill", "PrefixCache.keep")
@pytest.mark.parametrize("shared", [0, 3, 4, 17, 39, 40])
def test_matches_recomputing(shared):
    """The logits, whatever part of the prompt is shared, and every token decoded after them."""
    cache, first = PrefixCache(MODEL, 1000, block=4), ids(40)
    second = first[:shared] + ids(40 - shared, seed=1)
    cache.prefill(first)
    done = cache.prefill(second, room=8)
    assert done.reused == min(shared, 39) // 4 * 4
    close(done.logits, recompute(MODEL, second), f"{shared} shared")
    first_new = done.logits.argmax()[None, None]
    again = torch.cat((torch.tensor([second]), first_new), 1)
    assert torch.equal(decode(MODEL, first_new, 7, done.caches), decode(MODEL, again, 7))


@pytest.mark.exercise("PrefixCache.prefill")
def test_logits_in_single_precision():
    """Within 1e-5 of recomputing, in fp32."""
    model = GPT(tiny()).eval()
    cache, prompt = PrefixCache(model, 1000, block=4), ids(40)
    cache.prefill(prompt)
    done = cache.prefill([*prompt[:36], 1, 2, 3, 4])
    assert done.reused == 36
    assert (done.logits - recompute(model, [*prompt[:36], 1, 2, 3, 4])).abs().max() <= 1e-5


@pytest.mark.exercise("PrefixCache.prefill")
def test_is_on_only_the_rest_is_computed(monkeypatch):
    """The model is fed what is not held: of a prompt repeated whole, the last block."""
    model = loud()
    fed, cache = watch(model, monkeypatch), PrefixCache(model, 1000, block=4)
    for prompt in (ids(40), ids(40), ids(38), ids(20) + ids(5, seed=1)):
        cache.prefill(prompt)
    assert fed == [40, 4, 2, 5]


@pytest.mark.exercise("PrefixCache.prefill", "PrefixCache.keep")
def test_a_shared_block_is_never_written():
    """Bit for bit as first written, after requests decoded on from it and scribbled over their caches."""
    cache, prompt = PrefixCache(MODEL, 1000, block=4), ids(24)
    first = cache.prefill(prompt, room=8)
    blocks = cache.index.match(prompt)[1]
    before = [block.clone() for block in blocks]
    assert all(block.untyped_storage().nbytes() == block.nbytes for block in blocks), "storage of its own"
    for done in (first, cache.prefill(prompt, room=8)):
        decode(MODEL, torch.tensor([[1]]), 6, done.caches)
        for c in done.caches:
            c.k.fill_(7)
            c.v.fill_(7)
    after = cache.index.match(prompt)[1]
    assert all(a is b and torch.equal(a, c) for a, b, c in zip(after, blocks, before, strict=True))
    close(cache.prefill(prompt).logits, recompute(MODEL, prompt), "after all that")


@pytest.mark.exercise("PrefixCache.keep")
def test_an_answer_is_kept_too():
    """A chat's next turn begins with this one's answer: kept, it is not computed again."""
    cache, prompt = PrefixCache(MODEL, 1000, block=4), ids(10)
    done = cache.prefill(prompt, room=8)
    answer = decode(MODEL, done.logits.argmax()[None, None], 6, done.caches)[0].tolist()
    turn = [*prompt, done.logits.argmax().item(), *answer[:-1]]  # what the caches hold: 16 tokens
    assert cache.keep(turn, done.caches)
    after = cache.prefill([*turn, 5, 6])
    assert after.reused == 16
    close(after.logits, recompute(MODEL, [*turn, 5, 6]), "the second turn")


@pytest.mark.exercise("PrefixCache.keep")
def test_the_budget_is_kept():
    """After each prompt at most the budget is held; the longest idle goes; a prompt too long is refused."""
    cache = PrefixCache(MODEL, 24, block=4)
    a, b, c = ids(12, 1), ids(12, 2), ids(8, 3)
    for prompt in (a, b, a, c):
        assert cache.prefill(prompt).kept and cache.index.tokens <= 24
    assert [cache.index.match(p)[0] for p in (a, c)] == [12, 8] and cache.index.match(b)[0] <= 4
    held = cache.index.tokens
    done = cache.prefill(ids(30, 4))
    assert not done.kept and cache.index.tokens == held, "nothing goes for what cannot fit"
    close(done.logits, recompute(MODEL, ids(30, 4)), "refused, and right all the same")


@pytest.mark.exercise("PrefixCache.keep")
def test_its_own_beginning_does_not_go():
    """Making room for the rest of a prompt leaves its beginning, however long idle, and whoever is read."""
    cache = PrefixCache(MODEL, 16, block=4)
    a, b = ids(8, 1), ids(8, 2)
    cache.prefill(a)
    cache.prefill(b)
    longer = a + ids(4, 3)
    assert cache.prefill(longer).kept and cache.index.match(longer)[0] == 12 and cache.index.tokens <= 16
    cache.index.hold(longer)
    done = cache.prefill(ids(12, 4))
    assert not done.kept and cache.index.tokens <= 16 and cache.index.match(longer)[0] == 12


@pytest.mark.exercise("PrefixCache.keep")
def test_its_own_beginning_does_not_go_though_nothing_else_can():
    """All the rest is being read: the longer prompt is refused, and its beginning stays."""
    cache = PrefixCache(MODEL, 16, block=4)
    a, b = ids(8, 1), ids(8, 2)
    cache.prefill(a)
    cache.prefill(b)
    cache.index.hold(b)
    assert not cache.prefill(a + ids(4, 3)).kept
    assert cache.index.match(a)[0] == cache.index.match(b)[0] == 8


def test_bad_prompts():
    cache = PrefixCache(MODEL, 100)
    with pytest.raises(UserError, match="prompt is empty"):
        cache.prefill([])
    with pytest.raises(UserError, match="context is 64"):
        cache.prefill(ids(65))
    with pytest.raises(UserError, match="not one block"):
        PrefixCache(MODEL, 3)
    with pytest.raises(UserError, match="at least 1"):
        PrefixIndex(0)
