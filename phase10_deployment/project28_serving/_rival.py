"""For the bench: `transformers serve` beside ours."""

import asyncio
import signal
import subprocess
import sys
import time

from common.benchmark import values

from . import _client, _load, _server
from ._ladder import pin


def bench_transformers(b, folder, server):
    """`transformers serve` beside ours, the same chats, each on one core."""
    sentence = "Whole chats of 8 clients are answered at least twice as fast as by `transformers serve`"
    shape = {"unit": "tok/s", "better": "higher", "goal": (">=", 2)}
    if b.mode == "smoke" or not b.library("transformers"):
        b.not_run("transformers", sentence, why="not in a smoke test, or transformers is not here", **shape)
        return
    port, tokens = _server.free_port(), b.pick(smoke=4, quick=24, full=48)
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        str(folder.resolve()),
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    theirs = subprocess.Popen(
        ["taskset", "-c", "0", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url, chat = f"http://127.0.0.1:{port}", "/v1/chat/completions"
    said = [
        {
            "messages": [{"role": "user", "content": f"Where does {name} work?"}],
            "temperature": 0,
            "max_tokens": tokens,
        }
        for name in _load.WORDS[:8]
    ]

    def run(url, model):
        def ask():
            replies = _load.closed(url, [{**one, "model": model} for one in said], 8, chat)
            return [reply.usage["completion_tokens"] for reply in replies]

        return ask

    try:
        if not answers_within(120, url, str(folder.resolve())):
            b.not_run("transformers", sentence, why="transformers serve did not answer here", **shape)
            return
        spent = {}
        pin({1})
        for _ in range(b.pick(smoke=1, quick=2, full=6)):
            for name, side in (
                ("theirs", run(url, str(folder.resolve()))),
                ("ours", run(server.url, folder.name)),
            ):
                began = time.perf_counter()
                count = sum(side())
                spent.setdefault(name, []).append(count / (time.perf_counter() - began))
        pin({0, 1})
        b.claim(
            "transformers",
            sentence,
            measured=values("ours", spent["ours"], "transformers serve", spent["theirs"]),
            settings={"tokens asked for": tokens},
            why="tokens that really came, each server ending an answer by its own rules",
            **shape,
        )
    finally:
        theirs.send_signal(signal.SIGTERM)
        try:
            theirs.wait(20)
        except subprocess.TimeoutExpired:
            theirs.kill()


def answers_within(seconds, url, model):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        reply = asyncio.run(
            _client.ask(
                url,
                "/v1/chat/completions",
                {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
            )
        )
        if reply.ok and reply.usage:
            return True
        time.sleep(1)
    return False
