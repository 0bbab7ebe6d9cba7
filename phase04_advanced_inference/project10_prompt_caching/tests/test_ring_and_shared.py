"""The ring: who serves what, who moves, who has how much. The lock: two threads, with it and without."""

import sys
import threading
import time
from bisect import bisect
from collections import Counter
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex
from phase04_advanced_inference.project10_prompt_caching.ring import Ring, place
from phase04_advanced_inference.project10_prompt_caching.shared import Shared

KEYS = range(600)
# A machine that is busy, or stopped for a while, is no failure.
ANY_SPEED = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}


def owners(ring):
    return {key: ring.walk(key)[0] for key in KEYS}


def test_matches_the_circle_drawn_out():
    """By hand: of every server's places, the least way clockwise from the key decides who is met when."""
    ring = Ring("abcd", copies=5)
    for key in range(40):
        ways = {server: min((place((server, copy)) - place(key)) % 2**64 for copy in range(5))
                for server in "abcd"}  # fmt: skip
        assert ring.walk(key) == sorted("abcd", key=ways.get)
    assert bisect(ring.places, place(0)) < 20 and Ring().walk(1) == []


def test_only_its_own_keys_move():
    """A fifth server takes about a fifth of the keys, all of them to itself; gone, all is as before."""
    ring = Ring("abcd")
    before = owners(ring)
    ring.add("e")
    after = owners(ring)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {"e"} and 0.1 < len(moved) / len(KEYS) < 0.32
    ring.remove("e")
    assert owners(ring) == before
    shares = Counter(before.values())
    assert min(shares.values()) > 0.1 * len(KEYS), "many places make even shares"


@pytest.mark.exercise("Ring.take")
@settings(max_examples=30, derandomize=True, **ANY_SPEED)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6), st.sampled_from([1.0, 1.25, 2.0]))
def test_nobody_has_more_than_the_bound(keys, n, slack):
    """However few the keys, after every request no load is over slack times the mean, rounded up."""
    ring = Ring(range(n), copies=4, slack=slack)
    for count, key in enumerate(keys, 1):
        server = ring.take(key)
        assert sum(ring.loads.values()) == count and ring.loads[server] >= 1
        assert max(ring.loads.values()) <= -(-slack * count // n)


@pytest.mark.exercise("Ring.take")
def test_is_on_a_key_stays_while_there_is_room():
    """The same key goes to the same server; when that one is full, to the next clockwise, and then back."""
    ring = Ring("abcd", slack=2.0)
    first, second, *_ = ring.walk("chat")
    others = [ring.take(key) for key in range(20)]
    for server in others:
        ring.done(server)
    assert [ring.take("chat") for _ in range(3)] == [first, second, first], "at most 1, 1 and 2 in hand"
    ring.done(first)
    assert ring.take("chat") == first


def test_bad_rings():
    ring = Ring("ab")
    for wrong in (lambda: Ring(slack=0.9), lambda: Ring(copies=0), lambda: Ring().take("x"),
                  lambda: ring.add("a"), lambda: ring.remove("c"), lambda: ring.done("a")):  # fmt: skip
        with pytest.raises(UserError):
            wrong()
    server = ring.take("x")
    ring.remove(server)
    ring.done(server)  # its answer comes after it left: nothing to count
    assert sum(ring.loads.values()) == 0 and Ring("ab", slack=float("inf")).most() == float("inf")


# ---- several threads ----


class Slow(int):
    """A token whose hash takes a moment, in which another thread may run: a race that is never missed."""

    def __hash__(self):
        time.sleep(2e-5)
        return int.__hash__(self)


def race(door, index, rounds=12):
    """Two threads match, hold, insert, release and evict the same prompts; the errors they ran into."""
    errors, start = [], threading.Barrier(2)

    def work(seed):
        try:
            for i in range(rounds):
                start.wait()
                ids = [Slow(token) for token in (i, i + 1, 7, 8)]
                with door as held:
                    n, _ = held.match(ids)
                    held.hold(ids[:n])
                with door as held:
                    held.insert(ids, [f"{seed}:{i}"] * 2)
                    held.release(ids[:n])
                    held.evict(2 if i % 3 == 2 else 0)
        except Exception as error:  # what it is does not matter: there must be none
            errors.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors + [f"{index.blocks} counted"] * (index.blocks != len(index.nodes()))


@pytest.fixture
def eager():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_two_threads_through_the_lock(eager):
    """What is counted is what hangs in the tree, nobody holds anything, and somebody had to wait."""
    index = PrefixIndex(2)
    shared = Shared(index)
    assert race(shared, index) == []
    assert all(node.holders == 0 for node in index.nodes())
    assert shared.entries == 48 and shared.queued > 0 and shared.waited > 0


def test_two_threads_without_a_lock(eager):
    """The same two threads, the door open: it does break, so the test above can fail."""
    index = PrefixIndex(2)
    assert race(nullcontext(index), index)


def test_the_lock_is_given_back_after_an_error():
    shared = Shared([])
    with pytest.raises(KeyError, match="lost"), shared:
        raise KeyError("lost")
    with shared as things:
        things.append(1)
    assert shared.entries == 2 and shared.queued == 0 and shared.waited == 0
