"""For the bench: `transformers serve` beside ours."""

import asyncio
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from common.benchmark import values

from . import _client, _load, _server
from ._ladder import pin

CHAT = "/v1/chat/completions"
SENTENCE = "Whole chats of 8 clients are answered at least twice as fast as by `transformers serve`"
SHAPE = {"unit": "tok/s", "better": "higher", "goal": (">=", 2)}


@contextmanager
def their_server(folder, device):
    """The address of `transformers serve` over a model folder, on the first core; stopped at the end."""
    port = _server.free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder.resolve())]
    command += ["--port", str(port), "--device", device]
    theirs = subprocess.Popen(
        ["taskset", "-c", "0", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        theirs.send_signal(signal.SIGTERM)
        try:
            theirs.wait(20)
        except subprocess.TimeoutExpired:
            theirs.kill()


def answers_within(seconds, url, model):
    """Does a server answer a short chat, and say how many tokens it wrote, before the time is up?"""
    until = time.monotonic() + seconds
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    while time.monotonic() < until:
        reply = asyncio.run(_client.ask(url, CHAT, body))
        if reply.ok and reply.usage:
            return True
        time.sleep(1)
    return False


def speed(url, model, chats):
    """Tokens a second over some chats at a time."""
    began = time.perf_counter()
    replies = _load.closed(url, [{**one, "model": model} for one in chats], len(chats), CHAT)
    return sum(one.usage["completion_tokens"] for one in replies) / (time.perf_counter() - began)


def bench_transformers(b, folder, server):
    """The same chats by both, in turn, each server on one core."""
    if b.mode == "smoke" or not b.library("transformers"):
        b.not_run("transformers", SENTENCE, why="not in a smoke test, or transformers is not here", **SHAPE)
        return
    name, tokens = str(folder.resolve()), b.pick(smoke=4, quick=24, full=48)
    chats = [
        {
            "messages": [{"role": "user", "content": f"Where does {who} work?"}],
            "temperature": 0,
            "max_tokens": tokens,
        }
        for who in _load.WORDS[:8]
    ]
    with their_server(folder, b.device.type) as url:
        if not answers_within(120, url, name):
            b.not_run("transformers", SENTENCE, why="transformers serve did not answer here", **SHAPE)
            return
        pin({1})
        pairs = [
            (speed(url, name, chats), speed(server.url, folder.name, chats))
            for _ in range(b.pick(smoke=1, quick=2, full=6))
        ]
        pin({0, 1})
    theirs, ours = map(list, zip(*pairs, strict=True))
    b.claim(
        "transformers",
        SENTENCE,
        measured=values("ours", ours, "transformers serve", theirs),
        settings={"tokens asked for": tokens, "clients": len(chats)},
        why="tokens that really came: each server ends an answer by its own rules",
        **SHAPE,
    )
