"""The page alone, where there is no PyTorch: before servers that run elsewhere. For containers:

python -c "from phase10_deployment.project30_gradio._alone import main; main()" --url http://api:8000
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from common.cli.parse import parse
from common.errors import UserError, demand

from . import _start
from ._client import Hub, Server


@dataclass(frozen=True)
class Config:
    url: tuple[str, ...] = ()
    """Servers with OpenAI's routes."""
    key_file: str = ""
    """File that holds the key for them, if they ask for one."""
    host: str = "127.0.0.1"
    """Where the page listens; 0.0.0.0 is everywhere."""
    port: int = 7860
    """Its port."""


def main(argv=None):
    """Serve until told to stop; exit code 2 for a user's mistake."""
    argv = sys.argv[1:] if argv is None else argv
    config = parse(Config, list(argv), prog="page", description="The chat page before running servers.")
    try:
        demand(config.url, "no server: name one with --url http://…")
        path = Path(config.key_file)
        demand(not config.key_file or path.is_file(), f"there is no file {path} with a key")
        key = path.read_text("utf-8").strip() if config.key_file else ""
        hub = Hub([Server(url, key) for url in config.url])
        from . import _page  # Gradio takes its time, and mistakes need not wait for it

        with _start.bound(config.host, config.port) as sock:
            print(f"the page: {_start.address(sock)}", flush=True)
            asyncio.run(_page.serve(_page.create(hub), sock))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
