"""Downloads from a server on this machine that breaks off, lies, dawdles, changes or is not there."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.errors import UserError
from data.download import Unreachable, download

BODY = bytes(range(256)) * 800  # 204,800 bytes: several reads
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body`. `cuts`: after how many bytes each answer in turn breaks off (None: it does not)."""

    daemon_threads = True

    def __init__(self, body=BODY, cuts=(), ranges=True, etag='"one"', status=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.cuts, self.ranges, self.etag, self.status = body, list(cuts), ranges, etag, status
        self.asked: list[str | None] = []  # the Range of each request
        self.hold: threading.Event | None = None
        self.shift = 0  # a server that answers with another range than it was asked for

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers["Range"]
        server.asked.append(wanted)
        cut = server.cuts.pop(0) if server.cuts else None
        same = self.headers["If-Range"] in (None, server.etag)
        start = int(wanted[6:-1]) if wanted and server.ranges and same else 0
        if start >= len(server.body) or server.status != 200:
            return self.send_error(416 if server.status == 200 else server.status)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(server.body) - 1}/*")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(server.body[start : None if cut is None else start + cut])
        self.wfile.flush()
        if server.hold:
            server.hold.wait(20)
        if cut is not None:
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Starts servers, and stops them at the end of the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    started = []

    def start(*args, **kwargs):
        server = Server(*args, **kwargs)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        if server.hold:
            server.hold.set()
        server.shutdown()
        server.server_close()


def fetch(server, target, *, sha256=SHA, timeout=5.0, **more):
    return download((server.address,), target, sha256=sha256, timeout=timeout, pause=0, **more)


def left(folder):
    """What lies there, but for the lock."""
    return sorted(file.name for file in folder.iterdir() if file.suffix != ".lock")


def test_a_whole_answer_lands_under_its_name_and_leaves_nothing_beside_it(serve, tmp_path):
    server = serve()
    assert fetch(server, tmp_path / "deep" / "file").read_bytes() == BODY
    assert left(tmp_path / "deep") == ["file"] and server.asked == [None]


def test_what_breaks_off_is_resumed_by_range(serve, tmp_path):
    server = serve(cuts=[1000, 50_000])
    assert fetch(server, tmp_path / "file").read_bytes() == BODY
    assert server.asked == [None, "bytes=1000-", "bytes=51000-"]


def test_a_later_run_goes_on_where_an_earlier_one_broke_off(serve, tmp_path):
    server = serve(cuts=[70_000, 0])
    with pytest.raises(Unreachable, match="70,000 of 204,800"):
        fetch(server, tmp_path / "file")
    assert left(tmp_path) == ["file.etag", "file.part"]
    assert fetch(server, tmp_path / "file").read_bytes() == BODY
    assert server.asked[-1] == "bytes=70000-" and left(tmp_path) == ["file"]


@pytest.mark.parametrize("sha256", [SHA, None], ids=["digest", "no digest"])
def test_a_server_that_ignores_range_is_read_from_the_start(serve, tmp_path, sha256):
    server = serve(cuts=[5000], ranges=False)
    assert fetch(server, tmp_path / "file", sha256=sha256).read_bytes() == BODY
    assert server.asked == [None, "bytes=5000-"]


def test_a_file_that_changed_in_between_is_not_patched_together(serve, tmp_path):
    server = serve(cuts=[70_000, 0])
    with pytest.raises(Unreachable):
        fetch(server, tmp_path / "file", sha256=None)
    server.body, server.etag = BODY[::-1], '"two"'
    assert fetch(server, tmp_path / "file", sha256=None).read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_digest_and_etag_nothing_is_resumed(serve, tmp_path, etag):
    server = serve(cuts=[70_000, 0], etag=etag)
    with pytest.raises(Unreachable):
        fetch(server, tmp_path / "file", sha256=None)
    server.body, before = BODY[::-1], len(server.asked)
    assert fetch(server, tmp_path / "file", sha256=None).read_bytes() == BODY[::-1]
    assert server.asked[before:] == [None]


def test_wrong_bytes_are_refused_in_one_line_and_deleted(serve, tmp_path):
    with pytest.raises(UserError, match="refused and deleted") as caught:
        fetch(serve(body=b"<html>please log in</html>"), tmp_path / "file")
    assert "\n" not in str(caught.value) and SHA[:8] in str(caught.value)
    assert "file" not in left(tmp_path) and "file.part" not in left(tmp_path)


def test_the_second_address_is_asked_where_the_first_one_fails(serve, tmp_path):
    wrong, absent, right = serve(body=b"no"), serve(status=404), serve()
    addresses = (wrong.address, absent.address, right.address)
    assert download(addresses, tmp_path / "file", sha256=SHA, pause=0).read_bytes() == BODY
    assert [len(server.asked) for server in (wrong, absent, right)] == [1, 1, 1]


@pytest.mark.parametrize("stale", [b"x" * 100, b"x" * (len(BODY) + 5), BODY], ids=["short", "long", "whole"])
def test_a_beginning_that_does_not_belong_is_thrown_away(serve, tmp_path, stale):
    (tmp_path / "file.part").write_bytes(stale)
    assert fetch(serve(), tmp_path / "file").read_bytes() == BODY


def test_another_range_than_was_asked_for_is_not_appended(serve, tmp_path):
    server = serve(cuts=[1000])
    server.shift = 7
    with pytest.raises(Unreachable, match="another range"):
        fetch(server, tmp_path / "file", sha256=None)
    assert (tmp_path / "file.part").read_bytes() == BODY[:1000]


def test_a_server_that_stops_sending_is_asked_again_and_then_given_up(serve, tmp_path):
    server = serve(cuts=[1000, 1000, 0])
    server.hold = threading.Event()  # it holds each connection open and sends nothing more
    with pytest.raises(Unreachable, match="timed out"):
        fetch(server, tmp_path / "file", timeout=0.2)
    assert server.asked == [None, "bytes=1000-", "bytes=2000-"]
    assert (tmp_path / "file.part").read_bytes() == BODY[:2000]


def test_no_server_and_no_file_on_the_server(serve, tmp_path):
    gone = serve()
    gone.shutdown()
    gone.server_close()
    with pytest.raises(Unreachable, match=r"no answer from 127.0.0.1"):
        fetch(gone, tmp_path / "file")
    missing = serve(status=404)
    with pytest.raises(Unreachable, match="HTTP 404"):
        fetch(missing, tmp_path / "file")
    assert missing.asked == [None]  # a server that gave nothing is not asked again


def test_a_folder_that_cannot_be_written_is_one_line(serve, tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write .* THIRTY_HOME"):
        fetch(serve(), tmp_path / "taken" / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(serve, tmp_path):
    (tmp_path / "file.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left"):
        fetch(serve(), tmp_path / "file")
    assert not (tmp_path / "file").exists()


SCRIPT = """
import functools, pathlib, sys
from data.download import download
download((sys.argv[1],), pathlib.Path(sys.argv[2]), sha256=sys.argv[3], pause=0,
         say=functools.partial(print, flush=True))
"""


def start_process(server, target):
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, server.address, str(target), SHA], cwd=root,
                            env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True)


def wait_until(condition, seconds=30):
    ticker = threading.Event()
    for _ in range(int(seconds * 50)):
        if condition():
            return
        ticker.wait(0.02)
    raise AssertionError(f"not within {seconds} s")


def test_two_processes_at_once_fetch_the_file_once(serve, tmp_path):
    server, target = serve(cuts=[1000]), tmp_path / "file"
    server.hold = threading.Event()
    one = start_process(server, target)
    wait_until(lambda: server.asked)
    two = start_process(server, target)
    assert "another process is fetching file" in two.stdout.readline()
    server.hold.set()
    assert (one.wait(30), two.wait(30)) == (0, 0)
    assert target.read_bytes() == BODY and server.asked == [None, "bytes=1000-"]


def test_a_killed_process_leaves_a_beginning_and_no_lock(serve, tmp_path):
    server = serve(cuts=[90_000])
    server.hold = threading.Event()
    killed = start_process(server, tmp_path / "file")
    part = tmp_path / "file.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 60_000)
    killed.kill()
    killed.wait(10)
    reached = part.stat().st_size
    server.hold.set()
    server.hold = None
    assert fetch(server, tmp_path / "file").read_bytes() == BODY
    assert server.asked[-1] == f"bytes={reached}-"
