"""A router: one address, many servers. Who asks again lands where the beginning of his text is held.

Came before: one server. Many behind a balancer that takes turns hold a little of everything: the second turn
of a chat comes to one that has never seen the first. New here: the *beginning* of a request says who serves
it, by project 10's ring, so that the same beginning finds the same server and its prefix cache; with bounded
load, so that a beginning which everybody has does not drown one. And a server that dies costs only what it
was just writing: whoever has not heard a word yet is asked for elsewhere.

    prefix       the ring: clockwise from the beginning's place, the first that has not too much in hand
    least        the one with the fewest in hand
    round        each in turn; the naive way

When is it safe to ask another? As long as nothing was passed on. A request that was begun twice costs work,
but nobody hears two answers; half an answer and then another's would be a lie, so after the first byte the
failure itself is passed on.

Seam: none; HTTP in, HTTP out. Karger et al. 1997; Mirrokni et al. 2016, 1608.01350 (bounded loads);
Srivatsa et al. 2024, 2407.00023 (Preble: prompts to where they are cached).
"""

import asyncio
import json
import logging
from collections import Counter
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from common.errors import demand
from common.exercise import exercise
from phase04_advanced_inference.project10_prompt_caching.ring import Ring

from .limits import Bounded
from .protocol import problem
from .service import Stream, unless_gone

POLICIES = ("prefix", "least", "round")
BEGINNING = 256  # characters that say where a request belongs: a system prompt, or a chat's first words
HOPS = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "te", "upgrade"}
DEAD = httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError
LOG = logging.getLogger("thirty.router")


def beginning(body, authorization=""):
    """What a request's place on the ring is: who asks, as caches are kept apart by key, and its first words.

    Of a chat, nothing behind the first thing that the user said: that is the same in every later turn.
    """
    try:
        asked = json.loads(body)
        if "messages" in asked:
            roles = [one["role"] for one in asked["messages"]]
            opening = asked["messages"][: roles.index("user") + 1 if "user" in roles else None]
            text = "".join(f"{one['role']}: {one['content']}\n" for one in opening)
        else:
            text = str(asked.get("prompt", asked.get("input", "")))
    except (ValueError, TypeError, KeyError, AttributeError):
        text = ""  # the server will say what is wrong with it
    return authorization, text[:BEGINNING]


class Router:
    """Who serves what. replicas: base addresses. slack: see `Ring`. load: {replica: requests in hand}."""

    def __init__(self, replicas, policy="prefix", slack=1.25):
        demand(replicas and len(set(replicas)) == len(replicas), "name the servers, each once")
        demand(policy in POLICIES, f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")
        self.policy, self.ring, self.turn = policy, Ring(replicas, slack=slack), 0
        self.load, self.alive = dict.fromkeys(replicas, 0), dict.fromkeys(replicas, True)
        self.served, self.retries, self.lost = Counter(), 0, 0

    @exercise
    def choose(self, key, tried=()):
        """The replica for a request, or None where none is left: alive, and not among those `tried` already.

        prefix: of the ring's `walk(key)` the first such that has fewer in hand than the bound, and where all
        have as many, the first such. The bound is slack times the mean over those that are alive, this
        request counted, rounded up: -(-slack * (n + 1) // replicas). least: the one with the fewest in hand;
        of equals the first in `load`. round: from place `turn` on, in turn; then `turn` is the place after
        it.
        """
        names = list(self.load)
        left = [name for name in names if self.alive[name] and name not in tried]
        if not left:
            return None
        if self.policy == "least":
            return min(left, key=self.load.get)
        if self.policy == "round":
            found = next(i for i in range(self.turn, self.turn + len(names)) if names[i % len(names)] in left)
            self.turn = (found + 1) % len(names)
            return names[found % len(names)]
        living = [name for name in names if self.alive[name]]
        most = -(-self.ring.slack * (sum(self.load[name] for name in living) + 1) // len(living))
        path = [name for name in self.ring.walk(key) if name in left]
        return next((name for name in path if self.load[name] < most), path[0])

    def mark(self, replica, alive):
        if self.alive[replica] != alive:
            LOG.warning("%s is %s", replica, "back" if alive else "gone")
        self.alive[replica] = alive


class Proxy:
    """Passes requests on. seconds: without a byte, after which a server counts as dead for this request."""

    def __init__(self, router, client, *, seconds=300.0, attempts=3):
        self.router, self.client, self.attempts, self.seconds = router, client, attempts, seconds

    async def pass_on(self, request, body):
        """The answer of some server, as it comes. 503 where none could be asked."""
        key, tried, last = beginning(body, request.headers.get("authorization", "")), [], None
        while len(tried) < self.attempts and (replica := self.router.choose(key, tried)) is not None:
            tried.append(replica)
            self.router.load[replica] += 1
            handed_on = False
            try:
                answer = await self.ask(replica, request, body)
                if answer.status_code != 503:
                    handed_on = True
                    self.router.served[replica] += 1
                    return self.relayed(replica, answer)
                last = Response(await answer.aread(), 503, own_headers(answer))
            except DEAD:
                self.router.mark(replica, False)
            except httpx.TransportError as error:
                LOG.warning("%s: %s", replica, error)
            finally:
                self.router.load[replica] -= not handed_on
            self.router.retries += 1
        return last or JSONResponse(problem(503, "no_server", "no server could be asked: come again"), 503,
                                    {"retry-after": "2"})  # fmt: skip

    async def ask(self, replica, request, body):
        headers = [(k, v) for k, v in request.headers.items() if k not in HOPS]
        url = replica + request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return await self.client.send(
            self.client.build_request(request.method, url, headers=headers, content=body), stream=True
        )

    def relayed(self, replica, answer):
        """An answer as a stream: what the server sends is passed on as it comes."""

        def close():
            self.router.load[replica] -= 1

        response = Stream(self.bytes_of(replica, answer), close)
        response.status_code, response.raw_headers = answer.status_code, [
            (k.encode(), v.encode()) for k, v in own_headers(answer).items()]  # fmt: skip
        return response

    async def bytes_of(self, replica, answer):
        streaming = answer.headers.get("content-type", "").startswith("text/event-stream")
        try:
            async for part in answer.aiter_raw():
                yield part
        except httpx.TransportError:
            self.router.lost += 1
            self.router.mark(replica, False)
            if not streaming:
                raise  # the connection breaks off here, too: half an answer must not look whole
            body = problem(502, "server_lost", "the server that wrote this is gone: ask again")
            yield f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n".encode()
        finally:
            await answer.aclose()

    async def watch(self, every=1.0):
        """Ask every server again and again whether it is ready; for ever."""
        while True:
            for replica in self.router.load:
                try:
                    found = await self.client.get(replica + "/ready", timeout=2.0)
                    self.router.mark(replica, found.status_code == 200)
                except httpx.TransportError:
                    self.router.mark(replica, False)
            await asyncio.sleep(every)


def own_headers(answer):
    """A server's headers; its length too, as the bytes are passed on as they are."""
    return {k: v for k, v in answer.headers.items() if k == "content-length" or k not in HOPS}


def create_router(router, *, client=None, every=1.0, body=1 << 20):
    """The ASGI application of a Router. client: an httpx.AsyncClient, by default one of its own."""
    own = client or httpx.AsyncClient(timeout=httpx.Timeout(300.0, connect=2.0),
                                      limits=httpx.Limits(max_connections=None))  # fmt: skip
    proxy = Proxy(router, own)

    @asynccontextmanager
    async def lifespan(app):
        watching = asyncio.ensure_future(proxy.watch(every))
        yield
        watching.cancel()
        await own.aclose()

    async def refuse(refused, scope, receive, send):
        await JSONResponse(problem(refused.status, refused.code, refused.why), refused.status)(
            scope, receive, send)  # fmt: skip

    app = FastAPI(title="Thirty's router", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Bounded, refuse=refuse, size=body)
    app.state.proxy = proxy

    @app.get("/health")
    @app.get("/ready")
    async def health():
        living = sum(router.alive.values())
        return JSONResponse({"status": "ready" if living else "nobody is there", "servers": living},
                            200 if living else 503)  # fmt: skip

    @app.get("/router")
    async def state():
        return {"policy": router.policy, "alive": router.alive, "load": router.load,
                "served": dict(router.served), "retries": router.retries, "lost": router.lost}  # fmt: skip

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def everything(path: str, request: Request):
        answer = await unless_gone(request.receive, proxy.pass_on(request, await request.body()))
        return Response(status_code=499) if answer is None else answer

    return app
