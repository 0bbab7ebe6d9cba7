"""The door: keys, buckets, places, bodies; and what is undone when a later guard says no."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase10_deployment.project28_serving.limits import (
    Bounded,
    Door,
    Key,
    Keys,
    Places,
    Refused,
    TokenBucket,
    keys_of,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


# ---- the bucket ----


@pytest.mark.exercise("TokenBucket.take")
def test_a_bucket_gives_what_it_has_and_says_when_there_is_more():
    clock = Clock()
    bucket = TokenBucket(60, clock)  # one a second
    assert bucket.take(50) == 0 and bucket.take(10) == 0
    assert bucket.take(1) == pytest.approx(1.0) and bucket.take(30) == pytest.approx(30.0)
    clock.now += 1.5
    assert bucket.take(1) == 0 and bucket.take(1) == pytest.approx(0.5), "a refusal took something"
    clock.now += 10_000
    assert bucket.take(60) == 0 and bucket.take(1) > 0, "a minute of rest is the most that is saved up"
    assert bucket.take(61) == math.inf and TokenBucket(math.inf, clock).take(1e9) == 0


@given(wants=st.lists(st.tuples(st.floats(0, 20), st.floats(0.1, 40)), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None, derandomize=True)
@pytest.mark.exercise("TokenBucket.take")
def test_no_span_gets_more_than_its_share(wants):
    """In any span of t seconds at most rate + t * rate / 60; and who waits as long as told is served."""
    clock, rate = Clock(), 30.0
    bucket, taken = TokenBucket(rate, clock), []
    for pause, n in wants:
        clock.now += pause
        wait = bucket.take(n)
        if wait == 0:
            taken.append((clock.now, n))
        elif wait < math.inf:
            clock.now += wait + 1e-6
            assert bucket.take(n) == 0, "told to come back too soon"
            taken.append((clock.now, n))
        else:
            assert n > rate
    for i, (start, _) in enumerate(taken):
        for j in range(i, len(taken)):
            span = taken[j][0] - start
            assert sum(n for _, n in taken[i : j + 1]) <= rate + span * rate / 60 + 1e-3


# ---- places ----


def fill(places, key):
    """How many places a key gets before it is refused, and the refusal."""
    for n in range(places.n + 1):
        try:
            places.enter(key)
        except Refused as refused:
            return n, refused
    raise AssertionError("nobody was ever refused")


@pytest.mark.exercise("Places.enter")
def test_one_key_gets_half_two_a_third_and_a_stranger_always_one():
    n, refused = fill(Places(60), "a")
    assert n == 30 and refused.status == 429 and refused.after >= 1
    places = Places(60)
    counts = {"a": 0, "b": 0}
    for key in ["a", "b"] * 60:
        try:
            places.enter(key)
            counts[key] += 1
        except Refused:
            continue
    assert counts == {"a": 20, "b": 20}
    places = Places(64)
    for number in range(60):  # however many are greedy, there is one for who comes next
        fill(places, number)
        if places.free == 0:
            break
        assert places.taken["stranger"] == 0
        places.enter("stranger"), places.leave("stranger")


@pytest.mark.exercise("Places.enter")
def test_a_full_server_says_503_and_takes_nothing():
    places = Places(4)
    for key in "abcd":
        places.enter(key)
    with pytest.raises(Refused) as refused:
        places.enter("e")
    assert refused.value.status == 503 and refused.value.after >= 1
    assert places.taken.total() == 4 and places.taken["e"] == 0
    places.leave("a", stayed=3.0)
    places.enter("e")
    assert places.free == 0 and "a" not in places.taken


def test_come_again_after_a_mean_stay():
    places = Places(2)
    for _ in range(100):
        places.enter("a")
        places.leave("a", stayed=8.0)
    places.enter("a"), places.enter("b")
    with pytest.raises(Refused) as refused:
        places.enter("c")
    assert refused.value.after == 8


# ---- keys, and all of it ----


def test_keys_are_known_by_their_secret_alone():
    keys = Keys({"s3cret": Key("anna"), "other": Key("ben")})
    assert keys.find("Bearer s3cret").name == "anna" and keys.find("bearer  other").name == "ben"
    for wrong in (None, "", "s3cret", "Bearer", "Bearer s3cre", "Basic s3cret", "Bearer \udcff"):
        with pytest.raises(Refused) as refused:
            keys.find(wrong)
        assert refused.value.status == 401
    assert Keys().find(None) == Key()
    assert "s3cret" not in repr(vars(keys)), "the secret itself is not kept"


def test_a_file_of_keys():
    keys = keys_of('{"anna": {"key": "a", "requests_per_minute": 3}, "ben": {"key": "b"}}')
    assert keys.find("Bearer a") == Key("anna", requests=3.0) and keys.find("Bearer b").tokens == math.inf
    for wrong in ("", "[]", '{"anna": {}}', '{"anna": {"key": "a", "requests_per_minute": "many"}}'):
        with pytest.raises(UserError, match="no file of keys"):
            keys_of(wrong)


@pytest.mark.exercise("TokenBucket.take", "Places.enter")
def test_what_a_later_guard_refuses_costs_nothing():
    """A request that is turned away by one guard leaves no trace in the others."""
    clock = Clock()
    door, key = Door(Keys(), Places(8), clock), Key("a", requests=10, tokens=1000)
    with pytest.raises(Refused) as refused:
        door.enter(key, 400, places=5)  # of eight, one key gets four
    assert refused.value.status == 429 and door.places.free == 8
    requests, tokens = door.buckets[key]
    assert requests.level == 10 and tokens.level == 1000
    with pytest.raises(Refused) as refused:
        door.enter(key, 1001)
    assert refused.value.status == 400, "what never fits is no matter of waiting"
    entry = door.enter(key, 900, places=2)
    assert (requests.level, tokens.level, door.places.free) == (9, 100, 6)
    with pytest.raises(Refused) as refused:
        door.enter(key, 200)
    assert refused.value.status == 429 and refused.value.after == 6 and requests.level == 9
    door.leave(entry, 150)
    assert (tokens.level, door.places.free) == (850, 8), "what was not needed comes back"


def test_without_keys_every_request_is_a_stranger():
    """Nobody is known, so nobody can be said to have too much: all places are taken, then it is 503."""
    door = Door(Keys(), Places(8))
    entries = [door.enter(Key(), 1) for _ in range(8)]
    with pytest.raises(Refused) as refused:
        door.enter(Key(), 1)
    assert refused.value.status == 503
    for entry in entries:
        door.leave(entry, 1)
    assert door.places.free == 8 and not door.places.taken


def test_a_door_that_is_being_shut_sends_everybody_on():
    door = Door(Keys(), Places(8))
    door.draining = True
    with pytest.raises(Refused) as refused:
        door.enter(Key(), 1)
    assert (refused.value.status, refused.value.after) == (503, 1)


# ---- bodies ----


def bounded(messages, size=10, seconds=5.0, pause=0.0, headers=()):
    """What a body of these parts comes to: ("read", body) or ("refused", status); and how many were read."""
    left, said = list(messages), []

    async def app(scope, receive, send):
        said.append(("read", (await receive())["body"]))

    async def refuse(refused, scope, receive, send):
        said.append(("refused", refused.status))

    async def receive():
        await asyncio.sleep(pause)
        return left.pop(0)

    scope = {"type": "http", "headers": list(headers)}
    asyncio.run(Bounded(app, refuse, size, seconds)(scope, receive, None))
    return (*said, len(messages) - len(left))


def part(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def test_bodies_are_bounded_in_bytes_and_in_seconds():
    assert bounded([part(b"01234"), part(b"56789", False)]) == (("read", b"0123456789"), 2)
    assert bounded([part(b"01234"), part(b"567890"), part(b"x", False)]) == (("refused", 413), 2)
    length = [(b"content-length", b"100000000")]
    assert bounded([part(b"0")], headers=length) == (("refused", 413), 0), "not a byte of it is read"
    assert bounded([part(b"0")] * 9, seconds=0.02, pause=0.01)[0] == ("refused", 408)
    assert bounded([part(b"0"), {"type": "http.disconnect"}]) == (2,), "nobody is there to be answered"
