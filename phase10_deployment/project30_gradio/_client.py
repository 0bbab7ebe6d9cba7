"""The servers behind the page: what each can do, and how it is asked. Any with OpenAI's routes will do."""

import json
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from common.errors import UserError, demand

try:
    import httpx
except ImportError as error:
    raise SystemExit(f"error: no page without {error.name}: ./thirty --install ui serve") from None

from .stream import Answer, answered, coalesced

BLINK = 0.03  # seconds between two pieces of an answer
LACKS = {
    "engine": "It does not show its engine: it has no /thirty routes. Our own does, with --inspect "
    "(`./thirty run 28 --inspect`).",
    "tokenize": "It does not tell tokens: it has no /tokenize. Our own has, and so has vLLM's.",
    "embeddings": "It gives no vectors: it has no /v1/embeddings. Passages are found by their words alone.",
}


class Missing(UserError):
    """The server has no such route."""


@dataclass(frozen=True)
class Known:
    """What a server has said of itself. rooms: {model: tokens it can look at, or None}; engine: what
    /thirty/engine says, or None; tokenize: can it count tokens?"""

    rooms: dict
    engine: dict | None
    tokenize: bool


def words_of(answer):
    """What a refusal says."""
    try:
        error = answer.json()["error"]
        return error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}"


class Server:
    """One address. key: sent as a bearer's, where there is one. `close` it at the end."""

    def __init__(self, url, key="", seconds=300.0):
        where = urlsplit(url)
        good = where.scheme in ("http", "https") and where.netloc
        demand(good, f"no address of a server: {url!r}; one looks like http://127.0.0.1:8000")
        self.url, self.host = url.rstrip("/").removesuffix("/v1"), where.netloc.rpartition("@")[2]
        self.headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {})
        self.seconds, self.known, self._http = seconds, None, None

    @property
    def http(self):
        if self._http is None:  # made on the loop that uses it
            limits = httpx.Limits(max_connections=512, max_keepalive_connections=64)
            timeout = httpx.Timeout(self.seconds, connect=5.0)
            self._http = httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=timeout,
                                           limits=limits, trust_env=False)  # fmt: skip
        return self._http

    async def close(self):
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    # ---- asking ----

    async def ask(self, method, path, body=None):
        """The JSON of an answer. Missing: there is no such route; UserError: it refuses, or is not there."""
        try:
            answer = await self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self.unreachable(error) from None
        if answer.status_code in (404, 405) and not path.startswith("/v1/chat"):
            raise Missing(words_of(answer))
        demand(answer.status_code == 200, words_of(answer))
        try:
            return answer.json()
        except ValueError:
            raise UserError(f"{self.host} answered {path} with what is no JSON") from None

    def unreachable(self, error):
        return UserError(f"no server at {self.host} ({type(error).__name__}): is it running?")

    async def pieces(self, method, path, body=None):
        """An answer's bytes as they come; closed, it hangs up. UserError as in `ask`."""
        try:
            async with self.http.stream(method, path, json=body) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    raise (Missing if answer.status_code in (404, 405) else UserError)(words_of(answer))
                async for piece in answer.aiter_raw():
                    yield piece
        except httpx.HTTPError as error:
            raise self.unreachable(error) from None

    def say(self, body, stop=None, path="/v1/chat/completions", every=BLINK):
        """(an Answer, an async generator that fills it): the new texts, coalesced, in lists."""
        answer = Answer(time.perf_counter())
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        texts = answered(self.pieces("POST", path, body), answer, time.perf_counter)
        return answer, coalesced(texts, every, stop)

    # ---- what it can do ----

    async def meet(self):
        """Known: which models it has, and what else. UserError where it does not even say that."""
        page = await self.ask("GET", "/v1/models")
        try:
            rooms = {one["id"]: one.get("max_model_len") for one in page["data"]}
        except (KeyError, TypeError):
            raise UserError(f"{self.host} does not list its models as OpenAI's API does") from None
        demand(rooms, f"{self.host} has no model")
        engine, model = await self.maybe("GET", "/thirty/engine"), next(iter(rooms))
        counted = await self.maybe("POST", "/tokenize", {"model": model, "prompt": "a"})
        self.known = Known(rooms, engine, isinstance(counted, dict) and "count" in counted)
        return self.known

    async def maybe(self, method, path, body=None):
        """The JSON, or None where there is no such thing."""
        try:
            return await self.ask(method, path, body)
        except UserError:
            return None

    async def count(self, model, messages):
        """How many tokens a conversation makes; by three characters each where the server cannot say."""
        if not self.known.tokenize:
            return sum(4 + -(-len(one["content"]) // 3) for one in messages)
        body = {"model": model, "messages": messages, "add_generation_prompt": True}
        return (await self.ask("POST", "/tokenize", body))["count"]

    async def vectors(self, model, texts):
        """(N, C): a unit vector for each text. Missing where the server has none."""
        found = []
        for at in range(0, len(texts), 64):
            body = {"model": model, "input": texts[at : at + 64]}
            found += [row["embedding"] for row in (await self.ask("POST", "/v1/embeddings", body))["data"]]
        rows = np.array(found, dtype=np.float32)  # (N, C)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


class Hub:
    """All servers of a page. A model is called by its name, and, where two have it, with its server's."""

    def __init__(self, servers):
        demand(servers, "no server: name one with --url, or let the page start its own")
        self.servers, self.models = servers, {}

    async def meet(self):
        """The names of all models there are; UserError where no server answers."""
        found, faults = [], []
        for server in self.servers:
            try:
                found += [(name, server) for name in (await server.meet()).rooms]
            except UserError as error:
                faults.append(str(error))
        demand(found, "; ".join(faults))
        names = [name for name, _ in found]
        self.models = {f"{name} @ {server.host}" if names.count(name) > 1 else name: (server, name)
                       for name, server in found}  # fmt: skip
        return list(self.models)

    def find(self, label):
        """(server, model). UserError: there is none of that name."""
        demand(label in self.models, f"there is no model {label!r:.80} here: load the page again")
        return self.models[label]

    async def close(self):
        for server in self.servers:
            await server.close()


def laid(text):
    """The `laid` of a shadow tree's note: which files a learner wrote."""
    return sorted(json.loads(text)["laid"])
