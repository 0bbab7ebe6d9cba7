"""Open the chat page on the course's own model, or before any server with OpenAI's routes."""

import asyncio
import webbrowser
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from common.cli import chain, paths
from common.cli.script import script
from common.errors import UserError, demand

from . import _drive, _page, _start
from ._client import Hub, Server, laid


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model to serve; empty: models/sft, and where there is none, a tiny one made now."""
    url: tuple[str, ...] = ()
    """Servers that run already, such as http://127.0.0.1:8000; none: the page starts project 28's."""
    key_file: str = ""
    """File that holds the key for them, if they ask for one."""
    host: str = "127.0.0.1"
    """Where the page listens; 0.0.0.0 is everywhere."""
    port: int = 7860
    """Its port; 0: any that is free."""
    speculative: str = "off"
    """For the server that is started: ngram guesses from the text itself (project 11); off."""
    tokens: int = 16384
    """Its room for keys and values, in tokens."""
    browser: bool = False
    """Open the page in the browser, too."""
    ask: tuple[str, ...] = ()
    """Say these things through the page, as a browser would; then all stops."""
    max_tokens: int = 40
    """Tokens of each of those answers, at most."""

    def __post_init__(self):
        if not 0 <= self.port < 65536 or self.tokens < 64 or self.max_tokens < 1:
            raise UserError("port must lie in 0 to 65535; tokens be at least 64, max_tokens at least 1")
        if self.url and self.model:
            raise UserError("--model is for the server that the page starts, --url for others: name one")


PRESETS = {
    "smoke": Config(port=0, tokens=1024, max_tokens=12,
                    ask=("Where does Ilmo live?", "And where does he work?")),
    "cpu": Config(),
    "gpu": Config(tokens=262144)}  # fmt: skip


def mine():
    """The files of this run that a learner wrote (--mine)."""
    note = paths.ROOT / ".shadow.json"
    return laid(note.read_text("utf-8")) if note.is_file() else []


def key_of(config):
    """The key in the file that the config names; none without a file."""
    if not config.key_file:
        return ""
    path = Path(config.key_file).expanduser()
    demand(path.is_file(), f"there is no file {path} with a key")
    return path.read_text("utf-8").strip()


async def converse(config, run, url):
    """Say the config's lines through the page: figures."""
    found = {"asked": 0.0, "cached tokens": 0.0}
    async with _drive.Visitor(url) as visitor:
        await visitor.load()
        for text in config.ask:
            heard = await visitor.say(text, max_tokens=config.max_tokens, temperature=0)
            run.say(f"\n> {text}\n{heard.text}\n  {heard.told}")
            demand(not heard.trouble, f"the page says: {heard.told}")
            found["asked"] += 1
            found["cached tokens"] += heard.cached
    return found


def main(config, run):
    with ExitStack() as stack:
        sock = stack.enter_context(_start.bound(config.host, config.port))
        urls, files = list(config.url), mine()
        if not urls:
            folder = chain.find("sft", config.model, say=run.say)
            run.say(f"starting the server of project 28 with {folder} …")
            arguments = ["--model", folder, "--device", run.device.type, "--inspect",
                         "--tokens", config.tokens, "--speculative", config.speculative]  # fmt: skip
            urls = [stack.enter_context(_start.server(*arguments, log=run.folder / "server.log"))]
        hub = Hub([Server(url, key_of(config)) for url in urls])
        app, url, found = _page.create(hub, files), _start.address(sock), {}
        run.say(f"the page: {url}   (server: {', '.join(urls)}; Ctrl-C stops it)")
        run.say(f"it runs on your files: {', '.join(files)}" if files else "it runs on the course's own code")
        if config.host not in ("127.0.0.1", "localhost", "::1"):
            run.say("anybody who can reach this machine can use the page")
        if config.browser:
            webbrowser.open(url)

        async def ask():
            found.update(await converse(config, run, url))

        async def opened():
            await _page.serve(app, sock, ask if config.ask else None)
            await hub.close()

        asyncio.run(opened())
    if config.ask:
        run.finish(found)


if __name__ == "__main__":
    script(main, PRESETS)
