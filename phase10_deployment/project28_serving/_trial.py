"""For tests and experiments: a tiny service, and a real server around it in a thread of this process."""

import asyncio
import threading
from contextlib import contextmanager

from common import hub, tokenizer

from . import _server
from .assemble import Switches, assemble
from .limits import Keys
from .service import Bounds, Service


def engine_of(folder, **switches):
    """An engine over a model of its own, float64 where `double` says so."""
    double = switches.pop("double", False)
    model = hub.load(folder)
    settings = {"tokens": 1024, "max_batch": 8, "max_step_tokens": 64, **switches}
    return assemble(model.double() if double else model, tokenizer.load(folder), Switches(**settings))


def service_of(folder, *, keys=None, bounds=None, name="tiny", make=None, **switches):
    return Service(engine_of(folder, **switches), name, keys=Keys(keys), bounds=bounds or Bounds(), make=make)


@contextmanager
def running(app):
    """The address of a server that runs in a thread, with uvicorn and sockets; stopped at the end."""
    sock, stopped = _server.bound("127.0.0.1", 0), {}

    async def serve():
        stopped["loop"], stopped["event"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await _server.serve(app, sock, grace=2, then=stopped["event"].wait)

    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield _server.address(sock)
    finally:
        stopped["loop"].call_soon_threadsafe(stopped["event"].set)
        thread.join(10)
        sock.close()
