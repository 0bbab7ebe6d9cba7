"""A client that costs little, for loading a server: HTTP over plain sockets, and the time of every token."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Reply:
    """What came of one request. Times: seconds of the clock. status 0: the connection broke off."""

    status: int = 0
    headers: dict = field(default_factory=dict)
    sent: float = 0.0
    times: list = field(default_factory=list)  # of each piece of text
    ended: float = 0.0
    text: str = ""
    body: bytes = b""
    finish: str | None = None
    usage: dict | None = None
    whole: bool = False  # it came to its end
    error: str | None = None  # what a stream said of itself

    @property
    def ttft(self):
        return self.times[0] - self.sent

    @property
    def gaps(self):
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]

    @property
    def ok(self):
        return self.status == 200 and self.whole and self.error is None


async def connect(url):
    where = urlsplit(url)
    return await asyncio.open_connection(where.hostname, where.port, limit=1 << 20)


def request(path, body, key="", method="POST", headers=()):
    """The bytes of a request whose connection is closed afterwards. HTTP/1.0: no chunks in the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.0", "Host: server", "Connection: close", *headers,
             "Content-Type: application/json", f"Content-Length: {len(content)}"]  # fmt: skip
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def head_of(reader, reply):
    """Read status and headers; False where nothing came."""
    first = await reader.readline()
    if not first:
        return False
    reply.status = int(first.split()[1])
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        reply.headers[name.lower()] = value.strip()
    return True


def take(reply, line, now):
    """A line of a stream."""
    body = json.loads(line[6:])
    reply.usage = body.get("usage") or reply.usage
    for choice in body.get("choices", ()):
        text = choice.get("text") or choice.get("delta", {}).get("content") or ""
        if text:
            reply.times.append(now)
            reply.text += text
        reply.finish = choice["finish_reason"] or reply.finish
    if "error" in body:
        reply.error = body["error"]["code"]


async def ask(url, path, body, *, key="", method="POST", due=None, clock=time.perf_counter):
    """Send one request and read its answer, whole or streamed: a Reply, whatever happens. due: when it
    should have been sent; waits count from then."""
    reply = Reply(sent=clock() if due is None else due)
    try:
        reader, writer = await connect(url)
        try:
            writer.write(request(path, body, key, method))
            if await head_of(reader, reply):
                if reply.headers.get("content-type", "").startswith("text/event-stream"):
                    while line := await reader.readline():
                        if line == b"data: [DONE]\n":
                            reply.whole = True
                            break
                        if line.startswith(b"data: {"):
                            take(reply, line, clock())
                else:
                    reply.body = await reader.read()
                    reply.whole = len(reply.body) == int(reply.headers.get("content-length", -1))
        finally:
            writer.close()
    except (OSError, ValueError) as error:
        reply.finish = f"{type(error).__name__}: {error}"
    reply.ended = clock()
    if reply.ok and not reply.text and reply.body.startswith(b"{"):
        found = json.loads(reply.body)
        choice = found.get("choices", [{}])[0]
        reply.text = choice.get("text") or choice.get("message", {}).get("content") or ""
        reply.finish, reply.usage = choice.get("finish_reason"), found.get("usage")
        reply.times = [reply.ended]
    return reply


async def in_turn(url, path, bodies, clients, **options):
    """A closed loop: so many clients, each sends its next request when it has its answer. Replies, in
    order."""
    left, replies = list(enumerate(bodies))[::-1], [None] * len(bodies)

    async def client():
        while left:
            i, body = left.pop()
            replies[i] = await ask(url, path, body, **options)

    await asyncio.gather(*[client() for _ in range(clients)])
    return replies


async def at_times(url, path, bodies, arrivals, **options):
    """An open loop: each request is sent at its time (seconds from now), whatever has come of the others."""
    began = time.perf_counter()

    async def one(body, at):
        await asyncio.sleep(began + at - time.perf_counter())
        return await ask(url, path, body, due=began + at, **options)

    return await asyncio.gather(*[one(*pair) for pair in zip(bodies, arrivals, strict=True)])
