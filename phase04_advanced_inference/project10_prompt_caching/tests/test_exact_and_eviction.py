"""The exact cache and the stores: what may be repeated, who goes first, and a budget that holds."""

import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.errors import UserError
from common.generate import Sampling
from phase04_advanced_inference.project10_prompt_caching.eviction import (
    HALF_LIFE,
    Item,
    TokenStore,
    frequent,
    lru,
    optimal_hits,
    token_aware,
)
from phase04_advanced_inference.project10_prompt_caching.exact_cache import ExactCache, HitRate, key_of

GREEDY = Sampling(temperature=0, max_tokens=8)
# A machine that is busy, or stopped for a while, is no failure.
ANY_SPEED = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}


def counted(answer):
    """A compute() that gives the answer and counts how often it was asked."""
    def compute():
        compute.calls += 1
        return answer
    compute.calls = 0
    return compute


# ---- the exact cache ----


@pytest.mark.exercise("key_of")
def test_a_key_holds_all_that_matters():
    """Each token, each setting and the model make another key; equal requests make the same one."""
    long = list(range(300))
    drawn = Sampling(temperature=0.7, seed=1)
    assert key_of(long, drawn, "a") == key_of(list(long), Sampling(temperature=0.7, seed=1), "a") is not None
    others = [([*long[:-1], 0], drawn, "a"), (long[:-1], drawn, "a"), (long, drawn, "b"),
              (long[::-1], drawn, "a"), (long, Sampling(temperature=0.7, seed=2), "a"), (long, GREEDY, "a"),
              (long, Sampling(temperature=0.7, seed=1, max_tokens=7), "a")]  # fmt: skip
    for other in others:
        assert key_of(*other) != key_of(long, drawn, "a")
    assert key_of([1], Sampling(temperature=0, stop=("a",))) != key_of([1], Sampling(temperature=0))


@pytest.mark.exercise("key_of")
def test_chance_is_never_a_key():
    """Drawn without a seed: None. At temperature 0 the seed says nothing, so it makes no other key."""
    assert key_of([1], Sampling(temperature=0.5)) is None
    assert key_of([1], Sampling(temperature=0, seed=3)) == key_of([1], Sampling(temperature=0)) is not None


@pytest.mark.exercise("ExactCache.answer")
def test_is_on_a_repeat_computes_nothing():
    """The second time the answer comes without a computation; what may not be kept is computed each time."""
    cache, compute = ExactCache(TokenStore(100)), counted([4, 5])
    assert [tuple(cache.answer([1, 2, 3], GREEDY, compute)) for _ in range(3)] == [(4, 5)] * 3
    assert compute.calls == 1 and cache.rate.hits == 2 and cache.rate.lookups == 3
    assert cache.store.tokens == 5, "a prompt of 3 and an answer of 2"
    chance = counted([6])
    for _ in range(2):
        cache.answer([1, 2, 3], Sampling(temperature=1.0), chance)
    assert chance.calls == 2 and cache.store.tokens == 5 and cache.rate.lookups == 5


@pytest.mark.exercise("ExactCache.answer")
def test_what_is_kept_cannot_be_changed_from_outside():
    """The list that was computed may go on being written to; an empty answer is an answer."""
    cache, answer = ExactCache(TokenStore(100)), [4, 5]
    cache.answer([1], GREEDY, lambda: answer)
    answer.append(6)
    assert tuple(cache.answer([1], GREEDY, counted([]))) == (4, 5)
    empty = counted([])
    assert tuple(cache.answer([2], GREEDY, empty)) == tuple(cache.answer([2], GREEDY, empty)) == ()
    assert empty.calls == 1


def test_hit_rates():
    rate = HitRate(window=2)
    assert rate.now == rate.overall == 0
    for hit, weight in ((10, 10), (0, 10), (5, 10)):
        rate.add(hit, weight)
    assert rate.now == 0.25 and rate.overall == 0.5
    with pytest.raises(UserError, match="between none and all"):
        rate.add(11, 10)


# ---- who goes first ----


@pytest.mark.exercise("token_aware")
def test_idle_tokens_go_first():
    """The worth is minus ticks times tokens, the present counted as one."""
    assert token_aware(Item(None, 10, used=4, born=1, kept=0), 6) == -30
    big, small = Item(None, 100, 9, 9, 0), Item(None, 1, 2, 2, 0)
    assert token_aware(big, 10) < token_aware(small, 10) and lru(big, 10) > lru(small, 10)
    assert token_aware(big, 9) < token_aware(Item(None, 99, 9, 9, 0), 9), "size counts at once"


def test_hits_fade():
    """A hit is worth half after HALF_LIFE ticks; many old ones still beat a single new one, for a while."""
    item = Item(None, 1, used=10, born=0, kept=0, weight=6.0)
    assert frequent(item, 10) == 6 and frequent(item, 10 + HALF_LIFE) == pytest.approx(3)
    assert frequent(item, 10 + 3 * HALF_LIFE) == pytest.approx(0.75)


def store_of(policy, budget=3):
    return TokenStore(budget, policy)


@pytest.mark.exercise("TokenStore.put", "TokenStore.get")
def test_matches_the_policies_on_a_trace():
    """Who goes, worked out by hand: LRU the idle one, token-aware the large one, LRFU the seldom used one."""
    store = store_of(lru)
    for key in "abc":
        store.put(key, key, 1)
    assert store.get("a") == "a"
    assert store.put("d", "d", 1).evicted == ("b",)
    store = store_of(token_aware, 10)
    store.put("small", 1, 1)
    store.put("large", 2, 9)
    assert store.put("new", 3, 2).evicted == ("large",)
    store = store_of(frequent)
    for key in ("often", "b", "c"):
        store.put(key, key, 1)
        for _ in range(5 if key == "often" else 0):
            store.get(key)
    assert store.put("d", 0, 1).evicted == ("b",) and store.get("often") == "often"


@pytest.mark.exercise("TokenStore.get")
def test_hits_add_up():
    """Each hit adds 1 to what is left of those before."""
    store = store_of(frequent)
    store.put("a", 1, 1)  # tick 1
    assert store.get("nothing") is None  # tick 2
    store.get("a")  # tick 3
    item = store.items["a"]
    assert item.weight == pytest.approx(1 + 0.5 ** (2 / HALF_LIFE)) and item.used == 3 and item.hits == 2


@pytest.mark.exercise("TokenStore.put")
def test_what_is_too_long_is_refused():
    """Nothing goes for it, and it says so; its key no longer answers with what it was before."""
    store = store_of(lru)
    store.put("a", 1, 1)
    store.put("b", 2, 2)
    put = store.put("c", 3, 4)
    assert not put.kept and put.evicted == () and "4 tokens do not fit into a budget of 3" in put.why
    assert store.tokens == 3 and store.get("a") == 1
    assert not store.put("a", 9, 4).kept and store.get("a") is None and store.tokens == 2
    with pytest.raises(UserError, match="at least 1"):
        store.put("z", 0, 0)


@pytest.mark.exercise("TokenStore.put")
def test_a_key_put_again_is_counted_once():
    store = store_of(lru)
    store.put("a", 1, 2)
    assert store.put("a", 2, 3) == (True, (), "") and store.tokens == 3 and store.get("a") == 2


@pytest.mark.exercise("TokenStore.get", "TokenStore.put")
def test_time_runs_out():
    """After ttl seconds an item is void, used or not, and its tokens are free."""
    now = [0.0]
    store = TokenStore(3, ttl=10, clock=lambda: now[0])
    store.put("a", 1, 3)
    now[0] = 9.9
    assert store.get("a") == 1
    now[0] = 10.0
    assert store.get("a") is None and store.tokens == 0
    store.put("b", 2, 3)
    now[0] = 25.0
    assert store.put("c", 3, 3).evicted == (), "void, not evicted"


class Machine(RuleBasedStateMachine):
    """Any sequence of operations against a plain dictionary that forgets what it was told was evicted."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.store = TokenStore(20, POLICIES[self.policy], ttl=30, clock=lambda: self.now)
        self.truth = {}  # key -> (value, size, kept at)

    def alive(self):
        self.truth = {k: v for k, v in self.truth.items() if v[2] > self.now - 30}

    @rule(key=st.integers(0, 6), size=st.integers(1, 25), value=st.integers())
    def put(self, key, size, value):
        self.alive()
        before = {k: v for k, v in self.truth.items() if k != key}
        room = 20 - sum(v[1] for v in before.values())
        put = self.store.put(key, value, size)
        assert put.kept == (size <= 20) and bool(put.why) == (size > 20)
        assert bool(put.evicted) == (room < size <= 20), "evicts only where it must"
        for gone in put.evicted:
            assert room < size, "the last one to go was not needed"
            room += before.pop(gone)[1]
        self.truth = {**before, **({key: (value, size, self.now)} if put.kept else {})}

    @rule(key=st.integers(0, 6))
    def get(self, key):
        self.alive()
        assert self.store.get(key) == self.truth.get(key, (None,))[0]

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def within_the_budget(self):
        assert self.store.tokens <= self.store.budget
        assert self.store.tokens == sum(item.size for item in self.store.items.values())


POLICIES = {"lru": lru, "token_aware": token_aware, "frequent": frequent}


@pytest.mark.exercise("TokenStore.put", "TokenStore.get")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_budget_holds_after_every_operation(policy):
    """A state machine: puts, gets and waits in any order, for each policy."""
    machine = type("Budget", (Machine,), {"policy": policy}).TestCase
    machine.settings = settings(max_examples=15, stateful_step_count=25, derandomize=True,
                                **ANY_SPEED)  # fmt: skip
    machine().runTest()


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_the_budget_holds_for_long(policy):
    """The same machine, twenty times as many operations."""
    machine = type("Budget", (Machine,), {"policy": policy}).TestCase
    machine.settings = settings(max_examples=150, stateful_step_count=50, **ANY_SPEED)
    machine().runTest()


def test_the_future_is_a_bound():
    """On items of one size no policy hits more often than the one that knows what comes."""
    trace = [((7 * i * i) % 11, 1) for i in range(200)] + [(i % 5, 1) for i in range(50)]
    assert optimal_hits([("a", 1), ("b", 1), ("a", 1)], 1) == 1, "b need not be kept"
    for policy in POLICIES.values():
        store, hits = TokenStore(4, policy), 0
        for key, size in trace:
            hits += store.get(key) is not None
            store.put(key, True, size)
        assert 0 < hits <= optimal_hits(trace, 4)


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"budget": 5, "ttl": 0}, {"budget": 5, "ttl": math.nan}])
def test_bad_stores(wrong):
    with pytest.raises(UserError):
        TokenStore(**wrong)
