"""What the scripts share: a model behind a door, a server that drains, servers in processes of their own."""

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from common import hub, tokenizer
from common.cli import launch, paths, restores
from common.errors import UserError, demand

try:
    import uvicorn

    from . import api, limits, service
    from .assemble import assemble
except ImportError as error:
    raise SystemExit(f"error: no HTTP server without {error.name}: ./thirty --install serve") from None

SERVE = "phase10_deployment.project28_serving.serve"


class Server(uvicorn.Server):
    """uvicorn's, but told to stop it first shuts the door: who is inside is served, who comes is sent on."""

    def handle_exit(self, sig, frame):
        service = getattr(self.config.app.state, "service", None)
        if service is not None:
            service.door.draining = True
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self):
        """uvicorn raises the signal again when all is over; here the script goes on to its last line."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def bound(host, port):
    """A socket that listens; UserError where somebody else does."""
    try:
        return socket.create_server((host, port), backlog=2048, reuse_port=False)
    except (OSError, OverflowError) as error:
        raise UserError(f"no server at {host}:{port}: {error}; take another --port, or 0 for any") from None


def address(sock):
    host, port = sock.getsockname()[:2]
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


def descriptors(wanted=65536):
    """Let this process open as many connections as it may: how many those are; None off Unix."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def serve(app, sock, *, grace, then=None):
    """Serve until a signal, or until `await then()` is over."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=grace, access_log=False,
                            timeout_keep_alive=30, date_header=False, server_header=False)  # fmt: skip
    server = Server(config)
    running = asyncio.ensure_future(server.serve(sockets=[sock]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    try:
        if then is not None and server.started:
            await then()
    finally:
        server.should_exit = server.should_exit or then is not None
        await running


def log_to(path):
    """A line of JSON for each request into a file; "-": to the screen."""
    handler = logging.StreamHandler() if path == "-" else logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("thirty.requests")
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def served(folder, switches, *, name="", keys="", bounds=None, device="cpu"):
    """A Service over a model folder. keys: a file, see `limits.keys_of`."""
    words = tokenizer.load(folder)

    def make(switches):
        return assemble(hub.load(folder, device=device, restore=restores.table()), words, switches)

    known = None
    if keys:
        demand(Path(keys).is_file(), f"there is no file of keys {keys}")
        known = limits.keys_of(Path(keys).read_text("utf-8"))
    return service.Service(make(switches), name or Path(folder).name, keys=known, bounds=bounds, make=make)


def created(*args, **options):
    return api.create_app(*args, **options)


# ---- servers in processes of their own ----


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class Replica:
    """A server in a process of its own; pinned to these processors, where the system can."""

    def __init__(self, *arguments, port=0, cores=None, log=subprocess.DEVNULL, module=SERVE):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-c", launch.BOOT, str(paths.ROOT), module, "cpu"]
        command += ["--port", str(self.port), *map(str, arguments)]
        pin = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
        threads = {"OMP_NUM_THREADS": str(len(cores))} if cores else {}
        self.process = subprocess.Popen([*pin, *command], stdout=log, stderr=log,
                                        env=launch.environment(extra=threads))  # fmt: skip

    def ready(self, seconds=120.0):
        """Wait until it takes requests; UserError where it does not, or ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            demand(self.process.poll() is None, f"the server at {self.url} ended with code "
                   f"{self.process.returncode} before it was ready")  # fmt: skip
            try:
                with urllib.request.urlopen(self.url + "/ready", timeout=2) as answer:
                    if answer.status == 200:
                        return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise UserError(f"the server at {self.url} was not ready within {seconds:g} s")

    def rss(self):
        """Bytes that the process holds; None where the system does not say."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return None
        return 1024 * int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])

    def stop(self, how=signal.SIGTERM, seconds=30.0):
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def replicas(count, *arguments, cores=None, **options):
    """So many servers, ready; stopped at the end, whatever happens."""
    started = [Replica(*arguments, cores=cores and cores[i % len(cores)], **options) for i in range(count)]
    try:
        yield [one.ready() for one in started]
    finally:
        for one in started:
            one.stop()


@contextmanager
def in_thread(app, grace=2):
    """The address of an application that a thread of this process serves; stopped at the end, when those
    who are served have had so many seconds."""
    sock, known, started = bound("127.0.0.1", 0), {}, threading.Event()

    async def run():
        known["loop"], known["stop"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await serve(app, sock, grace=grace, then=known["stop"].wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield address(sock)
    finally:
        known["loop"].call_soon_threadsafe(known["stop"].set)
        thread.join(10 + grace)
        sock.close()


def get(url, timeout=30.0):
    """The parsed JSON of a page."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.loads(answer.read())

