"""The course's own server (project 28) in a process of its own, for a page that has none to talk to."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from common.cli import launch, paths
from common.errors import UserError, demand

SERVE = "phase10_deployment.project28_serving.serve"


def bound(host, port):
    """A socket that listens; UserError where somebody else does."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        raise UserError(f"no page at {host}:{port}: {error}; take another --port, or 0 for any") from None


def address(sock):
    """Where a browser of this machine finds it."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def ready(url):
    """Does it take requests?"""
    try:
        with urllib.request.urlopen(url + "/ready", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def server(*arguments, log, seconds=900.0, cores=None):
    """The address of a server that is ready; it is stopped at the end. log: the file for what it says.
    UserError where it ends before it is ready. cores: the processors it may use, where the system can."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-c", launch.BOOT, str(paths.ROOT), SERVE, "cpu", "--port", str(port)]
    pin = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    extra = {"OMP_NUM_THREADS": str(len(cores))} if cores else {}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen([*pin, *command, *map(str, arguments)], stdout=output, stderr=output,
                                   env=launch.environment(extra=extra))  # fmt: skip
    try:
        until = time.monotonic() + seconds
        while not ready(url):
            demand(process.poll() is None, f"the server ended before it was ready: what it said is in {log}")
            demand(time.monotonic() < until, f"the server was not ready within {seconds:g} s: see {log}")
            time.sleep(0.1)
        yield url
    finally:
        stop(process)


def stop(process, seconds=20.0):
    """End it, gently if that is possible."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
