"""Fetch one published file: resumed where it broke off, verified, renamed into place whole or not at all."""

import contextlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from rich import progress
from rich.console import Console

from common.errors import UserError
from data.files import digest

CHUNK = 1 << 16  # bytes read at a time
Tick = Callable[[int, int | None], None]  # told (bytes so far, bytes in all if known)


class Unreachable(Exception):
    """No address gave the file. The message says why, in a few words."""


class BrokeOff(Exception):
    """No answer, or the connection ended before the file did; what came is kept."""


class WrongBytes(Exception):
    """What came is not what was published; it has been deleted."""


def download(addresses: tuple[str, ...], target: Path, *, sha256: str | None = None, say=print,
             timeout: float = 20.0, pause: float = 1.0) -> Path:
    """Fetch `target` from the first address that has it, and return it. One process at a time fetches it.

    What broke off, now or in an earlier run, goes on from `target.part`. `timeout`: seconds for each read;
    `pause`: seconds between attempts. Unreachable: no address gives it. UserError: wrong bytes, full disk.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_one(target, say):
            if not target.exists():  # else another process has fetched it while we waited
                fetch(addresses, target, sha256, timeout, pause)
    except OSError as error:  # the network's own errors have become Unreachable by now
        raise UserError(f"cannot write {target} ({error.strerror or error}): make room there, "
                        "or set THIRTY_HOME to another folder") from error
    return target


@contextlib.contextmanager
def only_one(target: Path, say) -> Iterator[None]:
    """Holds the system's lock on `target.lock`: it goes away with the process, however that ends."""
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is fetching {target.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch(addresses: tuple[str, ...], target: Path, sha256: str | None, timeout: float, pause: float) -> None:
    """`target` from the first address with the right bytes. A beginning from an earlier run may belong to
    another file: then it is thrown away, and the addresses are asked once more."""
    part = Path(f"{target}.part")
    failures: list[Exception] = []
    for address in addresses + (addresses if part.exists() else ()):
        try:
            pull(address, part, sha256 is not None, timeout, pause)
            verify(part, address, sha256)
            os.replace(part, target)
            etag(part).unlink(missing_ok=True)
            return
        except (Unreachable, WrongBytes) as failure:
            failures.append(failure)
    if wrong := [failure for failure in failures if isinstance(failure, WrongBytes)]:
        raise UserError(f"{wrong[0]}; try again later, or put the right {target.name} into $THIRTY_DATA")
    raise Unreachable(str(failures[0]))


def verify(part: Path, address: str, sha256: str | None) -> None:
    """WrongBytes, and the file deleted, unless it has the digest (None: any digest will do)."""
    if sha256 and (came := digest(part)) != sha256:
        part.unlink()
        raise WrongBytes(f"{address} sent other bytes than were published "
                         f"(sha256 {came[:8]}…, not {sha256[:8]}…): refused and deleted")


def pull(address: str, part: Path, verifiable: bool, timeout: float, pause: float) -> None:
    """Bring `part` to its full length. A server is asked again as long as each answer brings something."""
    if not verifiable and not tag(part):
        part.unlink(missing_ok=True)  # nothing could tell whether the two halves belong together
    with bar(part.name.removesuffix(".part")) as tick:
        while True:
            before = length(part)
            try:
                return receive(address, part, tick, timeout)
            except BrokeOff as error:
                if length(part) <= before:
                    raise Unreachable(str(error)) from error
            time.sleep(pause)


def receive(address: str, part: Path, tick: Tick, timeout: float) -> None:
    """One request for what `part` lacks; BrokeOff if it ends early."""
    with answer(address, part, timeout) as response:
        resumed = response.status == 206  # 200: Range was ignored, or the file has changed, so start over
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {length(part)}-"):
            raise BrokeOff(f"{address} answered with another range than was asked for")
        etag(part).write_text(response.headers.get("ETag", ""), encoding="latin-1")
        with part.open("ab" if resumed else "wb") as file:
            missing = response.length  # None where the server does not say
            total = None if missing is None else file.tell() + missing
            for chunk in chunks(response):
                file.write(chunk)
                tick(file.tell(), total)
    if total is not None and length(part) < total:
        raise BrokeOff(f"it broke off at {length(part):,} of {total:,} bytes")


def answer(address: str, part: Path, timeout: float) -> http.client.HTTPResponse:
    """The open answer to a request for the bytes after those in `part`, if it is still the same file."""
    request = urllib.request.Request(address, headers={"User-Agent": "thirty"})
    if start := length(part):
        request.add_header("Range", f"bytes={start}-")
        if tag(part):
            request.add_header("If-Range", tag(part))
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # there is nothing behind `start`: this beginning is of no use
            part.unlink()
        raise BrokeOff(f"HTTP {error.code} from {request.host}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        said = getattr(reason, "strerror", None) or reason
        raise BrokeOff(f"no answer from {request.host}: {said}") from error


def chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it comes. Errors of the network, and only those, become BrokeOff."""
    while True:
        try:
            chunk = response.read1(CHUNK)  # what is there already: `read` would lose it when the time is up
        except (OSError, http.client.HTTPException) as error:
            raise BrokeOff(f"it broke off: {error}") from error
        if not chunk:
            return
        yield chunk


def etag(part: Path) -> Path:
    """Where the server's name for this version of the file is kept, beside the part."""
    return part.with_suffix(".etag")


def tag(part: Path) -> str:
    """That name, or "" where the server gave none (a weak one names no bytes)."""
    text = etag(part).read_text(encoding="latin-1") if etag(part).exists() else ""
    return "" if text.startswith("W/") else text


def length(file: Path) -> int:
    """Bytes; 0 where there is no such file."""
    return file.stat().st_size if file.exists() else 0


@contextlib.contextmanager
def bar(name: str) -> Iterator[Tick]:
    """A progress bar on the terminal; nothing where standard error is a file."""
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn(),
               progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
    shown = progress.Progress(*columns, console=Console(stderr=True), transient=True,
                              disable=not sys.stderr.isatty())
    with shown:
        task = shown.add_task(f"fetching {name}", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
