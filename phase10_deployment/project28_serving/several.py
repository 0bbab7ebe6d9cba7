"""Several servers behind one address: replicas in processes of their own, and the router before them."""

import asyncio
from collections import Counter
from dataclasses import dataclass

import httpx

from common.cli import chain
from common.cli.script import script
from common.errors import UserError, demand

from . import _server
from .router import POLICIES, Router, create_router


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/sft, and where there is none, a tiny one made now."""
    replicas: int = 2
    """Servers to start; 0: none, those under --urls are there already."""
    urls: tuple[str, ...] = ()
    """Addresses of servers that run, such as http://10.0.0.7:8000."""
    policy: str = "prefix"
    """prefix: by the beginning of the text; least: the one with the fewest in hand; round: in turn."""
    slack: float = 1.25
    """prefix: how many times the mean a server may have in hand."""
    host: str = "127.0.0.1"
    """Where the router listens."""
    port: int = 8000
    """Its port; 0: any that is free."""
    keys: str = ""
    """File of keys for the servers that are started."""
    ask: int = 0
    """So many requests of four beginnings to send through; then all stop. 0: serve until told to stop."""

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise UserError(f"policy must be one of {', '.join(POLICIES)}, not {self.policy!r}")
        if self.replicas < 0 or self.replicas + len(self.urls) < 1:
            raise UserError("no server to pass requests on to: --replicas at least 1, or --urls")


PRESETS = {"smoke": Config(port=0, ask=16), "cpu": Config(), "gpu": Config(replicas=1)}


async def send(config, run, url, name, router):
    """Requests of four beginnings, in turn: where did each kind go?"""
    who = "Mara", "Joss", "Tilda", "Ben"
    beginnings = [f"{one} works at the mill, and every morning " * 5 for one in who]
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        cached = 0
        for i in range(config.ask):
            body = {"model": name, "prompt": beginnings[i % 4] + str(i), "max_tokens": 4, "temperature": 0}
            answer = await client.post("/v1/completions", json=body)
            demand(answer.status_code == 200, f"a server answered {answer.status_code}: {answer.text}")
            cached += answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    run.say(f"{config.policy}: {dict(Counter(router.served))}, {cached} prompt tokens were there already")
    used = float(len(router.served))
    return {"sent": float(config.ask), "cached tokens": float(cached), "servers used": used}


def main(config, run):
    folder = chain.find("sft", config.model, say=run.say)
    arguments = ["--model", str(folder), "--device", run.device.type]
    arguments += ["--keys", config.keys] if config.keys else []
    started = _server.replicas(config.replicas, *arguments)
    with _server.bound(config.host, config.port) as sock, started as own:
        router = Router([*(one.url for one in own), *config.urls], config.policy, config.slack)
        url, found = _server.address(sock), {}
        run.say(f"{len(router.load)} servers behind {url}/v1, by {config.policy}; state: {url}/router")

        async def ask(server):
            found.update(await send(config, run, url, folder.name, router))

        _server.descriptors()
        asyncio.run(_server.serve(create_router(router), sock, grace=30, then=ask if config.ask else None))
    if config.ask:
        run.finish(found)


if __name__ == "__main__":
    script(main, PRESETS)
