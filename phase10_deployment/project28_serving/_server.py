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
    """uvicorn's, but told to stop it shuts the door and stays until those inside have been served: /ready
    says no, who comes is told to ask another. After the grace, or told twice, it ends what is left.

    until: when the grace is over; None: nobody has told it to stop. cut: answers that were ended early.
    """

    def __init__(self, config, say=lambda text: None):
        super().__init__(config)
        self.service, self.say = getattr(config.app.state, "service", None), say
        self.until, self.cut, self.waited_for = None, 0, 0

    def handle_exit(self, sig, frame):
        if self.until is None:
            self.drain()
        else:
            self.until, self.force_exit = 0.0, self.service is None  # told twice

    def drain(self):
        self.until = time.monotonic() + self.config.timeout_graceful_shutdown
        if self.service is None:
            self.should_exit = True
        else:
            self.service.door.draining, self.waited_for = True, self.inside

    @property
    def inside(self):
        """Answers that are being written, or wait."""
        return self.service.door.places.taken.total()

    async def on_tick(self, counter):
        if self.until is not None and self.service is not None and not self.should_exit:
            if self.waited_for:
                self.say(f"stopping; answers to finish: {self.waited_for} (told again, they are cut off)")
                self.waited_for = 0
            if self.inside and time.monotonic() > self.until:
                self.cut = self.inside
                self.service.loop.cut()
                for _ in range(20):  # what there is of them is sent
                    await asyncio.sleep(0.1 if self.inside else 0)
            self.should_exit = not self.inside or self.cut > 0
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self):
        """uvicorn raises the signal again when all is over; here the script goes on to its last line."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def bound(host, port):
    """A socket that listens; UserError where somebody else does."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UserError(f"no server at {host}:{port}: {error}; take another --port, or 0 for any") from None


def address(sock):
    """Where a client of this machine finds it."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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


async def serve(app, sock, *, grace, then=None, say=lambda text: None):
    """Serve until a signal, or until `await then(server)` is over: how many answers were cut off."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=grace, access_log=False,
                            timeout_keep_alive=30, date_header=False, server_header=False)  # fmt: skip
    server = Server(config, say)
    running = asyncio.ensure_future(server.serve(sockets=[sock]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    try:
        if then is not None and server.started:
            await then(server)
    finally:
        if then is not None and server.until is None:
            server.drain()
        await running
    return server.cut


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


def created(service, *, inspect=False):
    """The application of a Service; it says which of its files a learner wrote (--mine)."""
    laid = paths.ROOT / ".shadow.json"
    mine = json.loads(laid.read_text("utf-8"))["laid"] if laid.is_file() else {}
    return api.create_app(service, inspect=inspect, mine=sorted(mine))


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

    def ready(self, seconds=600.0):
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
def in_thread(app, grace=2, then=None):
    """The address of an application that a thread of this process serves; stopped at the end, or when
    `await then(server)` is over: those who are served then have so many seconds."""
    sock, known, started = bound("127.0.0.1", 0), {}, threading.Event()

    async def left(server):
        await known["stop"].wait()

    async def run():
        known["loop"], known["stop"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await serve(app, sock, grace=grace, then=then or left)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield address(sock)
    finally:
        if thread.is_alive():
            known["loop"].call_soon_threadsafe(known["stop"].set)
        thread.join()
        sock.close()


def get(url, timeout=30.0):
    """The parsed JSON of a page."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.loads(answer.read())
