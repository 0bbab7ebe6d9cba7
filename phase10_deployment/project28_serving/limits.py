"""The door: who may come in, how often, how many at a time, and with how much.

Came before: an engine that takes whatever it is given, into a queue without end. A server that queues all it
cannot do serves everybody late, and at last nobody: its queue holds requests whose senders have gone. New
here: everything is bounded, and who cannot be served soon is told so *now*, with the time after which to
come again. Four bounds, each for its own kind of too much:

    too large    a body of so many bytes, sent within so many seconds (`Bounded`)           413, 408
    too often    a bucket of requests and one of tokens for each key (`TokenBucket`)        429
    too many     places, and of those no more for one key than are still free (`Places`)    429, 503
    too long     so many seconds for an answer (`EngineLoop.submit`)                        503, or cut

Choudhury & Hahne 1998, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches" (places); Turner
1986, "New Directions in Communications" (the bucket); RFC 6585 (429), RFC 9110 (503, Retry-After).
"""

import asyncio
import hashlib
import itertools
import json
import math
import time
from collections import Counter
from dataclasses import dataclass

from common.errors import UserError, demand
from common.exercise import exercise


class Refused(Exception):
    """A request that is not served: an HTTP status, a code, a reason, and when to come again (seconds)."""

    def __init__(self, status, code, why, *, after=None, param=None):
        super().__init__(why)
        self.status, self.code, self.why, self.param = status, code, why, param
        self.after = None if after is None else max(1, math.ceil(after))


# ---- who ----


@dataclass(frozen=True)
class Key:
    """One who may ask. name: how logs and queues call it. Rates are for a minute; inf: as many as it
    likes."""

    name: str = ""
    requests: float = math.inf
    tokens: float = math.inf


class Keys:
    """The keys of a server, kept as digests: {secret: Key}. None at all: everybody may ask, as one."""

    def __init__(self, keys=None):
        self.open = not keys
        self.by_digest = {self.digest(secret): key for secret, key in (keys or {}).items()}
        names = [key.name for key in self.by_digest.values()]
        demand(len(set(names)) == len(names), f"two keys share a name: {sorted(names)}")

    @staticmethod
    def digest(secret):
        """What two secrets are compared by: how long that takes tells nothing about either."""
        return hashlib.sha256(secret.encode("utf-8", "replace")).digest()

    def find(self, authorization):
        """The Key of an Authorization header, "Bearer SECRET". Refused, 401, where it is none of ours."""
        if self.open:
            return Key()
        scheme, _, secret = (authorization or "").partition(" ")
        key = self.by_digest.get(self.digest(secret.strip())) if scheme.lower() == "bearer" else None
        if key is None:
            raise Refused(401, "invalid_api_key", "no valid key: send Authorization: Bearer KEY")
        return key


def keys_of(text):
    """Keys from a file: {"name": {"key": "…", "requests_per_minute": 60, "tokens_per_minute": 20000}}."""
    try:
        return Keys({one["key"]: Key(name, float(one.get("requests_per_minute", math.inf)),
                                     float(one.get("tokens_per_minute", math.inf)))
                     for name, one in json.loads(text).items()})  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"no file of keys ({type(error).__name__}: {error}): it looks like "
                        '{"anna": {"key": "…", "requests_per_minute": 60}}') from None  # fmt: skip


# ---- how often ----


class TokenBucket:
    """`rate` a minute on average, and `rate` at once after a minute of rest. It begins full."""

    def __init__(self, rate, clock=time.monotonic):
        self.rate, self.clock, self.level, self.at = rate, clock, rate, clock()

    @exercise
    def take(self, n):
        """n are wanted. 0.0: they are taken. Else nothing is, and this is after how many seconds n would be
        there, if nobody takes any meanwhile; inf where n is more than the bucket ever holds.

        The level rises by rate / 60 a second from `at`, when it was last looked at, but never above rate.
        """
        if math.isinf(self.rate):
            return 0.0
        now = self.clock()
        self.level, self.at = min(self.rate, self.level + (now - self.at) * self.rate / 60), now
        if n > self.rate:
            return math.inf
        if n > self.level:
            return (n - self.level) * 60 / self.rate
        self.level -= n
        return 0.0

    def give(self, n):
        """n were taken and not needed."""
        self.level = min(self.rate, self.level + n)


# ---- how many at a time ----


class Places:
    """`n` places, for requests that run or wait. taken: {key: places it holds}."""

    def __init__(self, n, clock=time.monotonic):
        demand(n >= 2, f"a server with {n} places has none left for a second key: at least 2")
        self.n, self.clock, self.taken, self.seconds = n, clock, Counter(), 1.0  # seconds: a mean stay

    @property
    def free(self):
        return self.n - self.taken.total()

    @exercise
    def enter(self, key):
        """Take a place for a key, a name, or raise Refused: 503 where none is free; 429 where some are, but
        the key holds as many as are free, or more. Both say to come again `after` a mean stay, `seconds`.

        So one key alone gets half of all places, two get a third each, and there always is one for a
        stranger: what nobody else needs can be had, but not the last of it.
        """
        if self.free <= 0:
            raise Refused(503, "overloaded", "the server is full: come again", after=self.seconds)
        if self.taken[key] >= self.free:
            raise Refused(429, "too_many_requests", f"this key has {self.taken[key]} requests here already: "
                          "wait for one of them", after=self.seconds)  # fmt: skip
        self.taken[key] += 1

    def leave(self, key, stayed=None):
        """Give the place back after so many seconds; None: it was not used."""
        self.taken[key] -= 1
        self.taken += Counter()  # forgets keys with none
        self.seconds += 0.0 if stayed is None else 0.1 * (stayed - self.seconds)


class Door:
    """All that stands between a request and the engine. `enter` it, and `leave` it, whatever happens.

    Where there are no keys, each request is a stranger to the others, and all places can be had.
    """

    def __init__(self, keys, places, clock=time.monotonic):
        self.keys, self.places, self.clock, self.draining, self.buckets = keys, places, clock, False, {}
        self.strangers = itertools.count()

    def enter(self, key, tokens, places=1):
        """A Key asks for so many answers, of at most so many tokens in all: what `leave` wants. Refused with
        the reason, and then nothing was taken."""
        if self.draining:
            raise Refused(503, "draining", "the server is being stopped: ask another", after=1)
        if key not in self.buckets:
            self.buckets[key] = TokenBucket(key.requests, self.clock), TokenBucket(key.tokens, self.clock)
        requests, bucket = self.buckets[key]
        if wait := requests.take(1):
            raise too_often("requests", key.requests, wait)
        try:
            if wait := bucket.take(tokens):
                raise too_often("tokens", key.tokens, wait)
            holder = next(self.strangers) if self.keys.open else key.name
            try:
                self.seat(holder, places)
            except Refused:
                bucket.give(tokens)
                raise
        except Refused:
            requests.give(1)
            raise
        return key, holder, tokens, places, self.clock()

    def seat(self, holder, places):
        for taken in range(places):
            try:
                self.places.enter(holder)
            except Refused:
                for _ in range(taken):
                    self.places.leave(holder)
                raise

    def leave(self, entry, used):
        """used: tokens that were really read and written; the rest is given back."""
        key, holder, tokens, places, since = entry
        self.buckets[key][1].give(max(0, tokens - used))
        for _ in range(places):
            self.places.leave(holder, self.clock() - since)


def too_often(what, rate, wait):
    """Refused: over the rate of a minute. What can never fit is no matter of waiting: 400."""
    if math.isinf(wait):
        return Refused(400, "too_large", f"this key may use {rate:g} {what} a minute: ask for less at a time")
    return Refused(429, "rate_limit_exceeded", f"over {rate:g} {what} a minute: come again", after=wait)


# ---- how much ----


class Bounded:
    """ASGI middleware: reads the body whole, at most `size` bytes within `seconds`; the app gets it at once.

    Who sends more is told so after the first byte too many, and what else it sends is not read.
    """

    def __init__(self, app, refuse, size=1 << 20, seconds=20.0):
        self.app, self.refuse, self.size, self.seconds = app, refuse, size, seconds

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            body = await asyncio.wait_for(self.body(dict(scope["headers"]), receive), self.seconds)
        except asyncio.TimeoutError:
            refused = Refused(408, "too_slow", f"the request was not all there within {self.seconds:g} s")
            return await self.refuse(refused, scope, receive, send)
        except Refused as refused:
            return await self.refuse(refused, scope, receive, send)
        if body is None:  # gone already
            return None
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay():
            return parts.pop() if parts else await receive()

        return await self.app(scope, replay, send)

    async def body(self, headers, receive):
        large = Refused(413, "too_large", f"a request may have {self.size} bytes")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.size:
            raise large
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self.size:
                raise large
        return b"".join(parts)
