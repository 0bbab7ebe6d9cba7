"""Applications of the bench in processes of their own, on a processor of their own."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from common.cli import launch, paths
from common.errors import demand

from . import _start

CODE = """
import sys
sys.path.insert(0, sys.argv[1])
import asyncio, json
from phase10_deployment.project30_gradio import _page, _start, _stock
from phase10_deployment.project30_gradio._client import Hub, Server
kind, port, given = sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
make = {"page": lambda: _page.create(Hub([Server(given["url"])])),
        "stock": lambda: _stock.stock(given["url"], given["model"]),
        "tape": lambda: _stock.tape(given["tokens"], given["rate"])}[kind]
asyncio.run(_page.serve(make(), _start.bound("127.0.0.1", port)))
"""


@contextmanager
def apart(kind, cores=None, seconds=300.0, **given):
    """The address of a page, a stock page or a tape, ready; stopped at the end."""
    import json

    port = _start.free_port()
    url, pin = f"http://127.0.0.1:{port}", ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    command = [*pin, sys.executable, "-c", CODE, str(paths.ROOT), kind, str(port), json.dumps(given)]
    process = subprocess.Popen(command, env=launch.environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        until = time.monotonic() + seconds
        while not answers(url, "/v1/models" if kind == "tape" else "/config"):
            demand(process.poll() is None and time.monotonic() < until, f"the {kind} did not start")
            time.sleep(0.1)
        yield url
    finally:
        _start.stop(process)


def answers(url, path):
    try:
        with urllib.request.urlopen(url + path, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
