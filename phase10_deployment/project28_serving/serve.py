"""Serve a model over HTTP, as OpenAI's API does: chat, completions, embeddings, streaming, figures."""

import asyncio
import dataclasses
from dataclasses import dataclass

import httpx

from common.cli import chain
from common.cli.script import script
from common.errors import UserError

from . import _server
from .assemble import Switches
from .service import Bounds


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/sft, and where there is none, a tiny one made now."""
    name: str = ""
    """What requests call it; empty: the folder's name."""
    host: str = "127.0.0.1"
    """Where to listen; 0.0.0.0 is everywhere: then name --keys."""
    port: int = 8000
    """The port; 0: any that is free."""
    keys: str = ""
    """File of keys, {"anna": {"key": "…", "requests_per_minute": 60, "tokens_per_minute": 20000}}."""
    prefix_cache: bool = True
    """Prompts that begin alike share the keys and values of their beginning (project 10)."""
    paged: bool = True
    """Memory in blocks (project 13); off: a slot of the longest length for each request (project 12)."""
    speculative: str = "off"
    """ngram: guess from the text itself (project 11); off."""
    kv: str = "float"
    """int8: keys and values in codes (project 15); float."""
    weights: str = "float"
    """int8: matrices in codes (project 14); float."""
    compile: bool = False
    """Compile norms and feed-forwards; the start then takes a while."""
    shared_prefixes: bool = False
    """All keys share one prefix cache: faster, and each can find out what others have asked."""
    max_batch: int = 32
    """Requests that run at a time."""
    max_step_tokens: int = 512
    """Tokens that one forward is fed at most."""
    tokens: int = 16384
    """Room for keys and values, in tokens."""
    places: int = 256
    """Requests that run or wait, at most."""
    seconds: float = 300.0
    """For one answer, at most."""
    max_tokens: int = 4096
    """New tokens of one answer, at most."""
    inspect: bool = False
    """Also the routes under /thirty, which show what is in the engine."""
    log: str = ""
    """File for a line of JSON for each request; "-": the screen."""
    grace: int = 30
    """Seconds that those who are being served have left when the server is told to stop."""
    ask: tuple[str, ...] = ()
    """Questions to ask oneself over HTTP; then the server stops."""

    def __post_init__(self):
        if not 0 <= self.port < 65536 or min(self.seconds, self.max_tokens, self.max_batch) <= 0:
            raise UserError("port must lie in 0 to 65535; seconds, max_tokens and max_batch above 0")
        if self.places < 2 or self.grace < 0:
            raise UserError("places must be at least 2, grace at least 0")
        self.switches()

    def switches(self):
        return Switches(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Switches)
                           if hasattr(self, field.name)})  # fmt: skip


PRESETS = {
    "smoke": Config(port=0, tokens=1024, max_batch=4, max_tokens=24,
                    ask=("I am new in Tinytown. Where does Ilmo live?",) * 2),
    "cpu": Config(),
    "gpu": Config(max_batch=256, max_step_tokens=8192, tokens=262144)}  # fmt: skip


async def converse(config, run, url, name):
    """Ask the server the questions, as a client would: streamed, with the first token's time."""
    clock, asked = asyncio.get_running_loop().time, []
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for question in config.ask:
            body = {"model": name, "messages": [{"role": "user", "content": question}], "temperature": 0,
                    "max_tokens": config.max_tokens}  # fmt: skip
            began, first = clock(), None
            async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
                async for line in answer.aiter_lines():
                    first = first or (clock() if '"content": "' in line and '"role"' not in line else None)
            whole = (await client.post("/v1/chat/completions", json=body)).json()
            run.say(f"\n> {question}\n{whole['choices'][0]['message']['content']}")
            run.say(f"first token after {1e3 * ((first or clock()) - began):.0f} ms; {whole['usage']}")
            asked.append(whole["usage"]["prompt_tokens_details"]["cached_tokens"])
    return {"asked": float(len(asked)), "cached tokens": float(sum(asked))}


def main(config, run):
    folder = chain.find("sft", config.model, say=run.say)
    bounds = Bounds(places=config.places, seconds=config.seconds, max_tokens=config.max_tokens)
    if config.log:
        _server.log_to(config.log)
    sock = _server.bound(config.host, config.port)
    with sock:
        url, most = _server.address(sock), _server.descriptors()
        service = _server.served(folder, config.switches(), name=config.name, keys=config.keys,
                                 bounds=bounds, device=run.device)  # fmt: skip
        app = _server.created(service, inspect=config.inspect)
        run.say(f"{service.name} at {url}/v1, for any client of OpenAI's; figures: {url}/metrics")
        if config.host not in ("127.0.0.1", "localhost", "::1") and not config.keys:
            run.say("anybody who can reach this machine may ask it: give --keys FILE to ask who it is")
        run.say(f"at most {most or 'as many as the system lets'} connections; Ctrl-C stops it")
        found = {}

        async def ask(server):
            found.update(await converse(config, run, url, service.name))

        cut = asyncio.run(_server.serve(app, sock, grace=config.grace, say=run.say,
                                        then=ask if config.ask else None))  # fmt: skip
    if config.ask:
        run.finish(found)
    else:
        run.say(f"stopped; {cut} answers were cut off" if cut else "stopped; nobody was cut off")


if __name__ == "__main__":
    script(main, PRESETS)
