"""For tests and experiments: an engine and a service over a model folder, of a tiny size; and its clients."""

import asyncio
import time

import httpx

from common import hub, tokenizer

from . import _client
from .assemble import Switches, assemble
from .limits import Keys
from .service import Bounds, Service

PATIENCE = 200  # seconds: what is waited for must come, however busy the machine is


def engine_of(folder, **switches):
    """An engine over a model of its own, float64 where `double` says so."""
    double = switches.pop("double", False)
    model = hub.load(folder)
    settings = {"tokens": 1024, "max_batch": 8, "max_step_tokens": 64, **switches}
    return assemble(model.double() if double else model, tokenizer.load(folder), Switches(**settings))


def service_of(folder, *, keys=None, bounds=None, name="tiny", make=None, **switches):
    return Service(engine_of(folder, **switches), name, keys=Keys(keys), bounds=bounds or Bounds(), make=make)


def ask(url, body, key="one", path="/v1/completions"):
    """The Reply to a request over a real socket."""
    return asyncio.run(asyncio.wait_for(_client.ask(url, path, body, key=key), PATIENCE))


def bearer(key):
    """A server without keys does not look at it."""
    return {"authorization": f"Bearer {key}"} if key else {}


def get(url, path, key="one"):
    return httpx.get(url + path, headers=bearer(key), timeout=PATIENCE)


def post(url, path, body, key="one"):
    return httpx.post(url + path, json=body, headers=bearer(key), timeout=PATIENCE)


def comes(true, seconds=PATIENCE):
    """Does it become true before the time is up?"""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.005)
    return true()
