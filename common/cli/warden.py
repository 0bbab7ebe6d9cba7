"""A judge behind a wall: `Warden` runs tests as `common/judge.py` does, for the files of strangers.

Each child stands behind `common/cli/wall.py`, reports through `common/cli/sealed.py`, and is watched from
outside for the memory of all its processes together and for the time that the whole project may take.
"""

import hmac
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import judge, proofs
from common.cli import launch, paths
from common.cli.sealed import sign
from common.judge import Judge, Result
from common.lesson import Test

WALL = Path(__file__).with_name("wall.py")
PYTHON = (sys.executable, "-I", "-S")
GB = 1 << 30


@dataclass(frozen=True)
class Terms:
    """What a submission may use: seconds for one test, minutes for a project, GB of memory, processes."""

    seconds: float = 30.0
    minutes: float = 10.0
    memory: float = 4.0
    processes: int = 256
    walled: bool = True
    core: int | None = None
    hidden: tuple[str, ...] = ()

    def plan(self, stand: Path, target: Path, scratch: tuple = (), written: tuple = ()) -> dict:
        """What `wall.py` is told."""
        whole = int(self.memory * GB)
        limits = {"DATA": whole, "FSIZE": 64 << 20, "CPU": int(self.minutes * 60) + 1,
                  "NPROC": self.processes, "NOFILE": 1024, "CORE": 0}  # fmt: skip
        if not self.walled:  # without a user of its own it would be counted together with all of ours
            del limits["NPROC"]
        python = [path for path in (sys.prefix, sys.base_prefix, *sys.path) if os.path.isabs(path)]
        shown = dict.fromkeys([*python, *map(os.path.realpath, python), str(target)])
        shown.pop(str(paths.ROOT), None)
        return {"walled": self.walled, "stand": str(stand), "cwd": str(target),
                "scratch": list(map(str, scratch)), "written": list(map(str, written)),
                "shown": list(shown), "hidden": [str(paths.ROOT), *self.hidden], "space": 256 << 20,
                "core": self.core, "limits": limits}  # fmt: skip

    def room(self, stand: Path) -> str:
        """Where the child may write."""
        return "/tmp" if self.walled else str(stand)


def environment(target: Path, room: str) -> dict[str, str]:
    """What a submission sees of the environment: nothing of whoever grades; draws are the same each time."""
    return {
        **proofs.ENVIRONMENT, "PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(target),
        "HOME": room, "TMPDIR": room, "USER": "student", "LOGNAME": "student", "LANG": "C.UTF-8",
        "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "CI": "1",
        "CUDA_VISIBLE_DEVICES": "", "THIRTY_OFFLINE": "1", "THIRTY_HOME": f"{room}/home",
        "THIRTY_MY": f"{room}/my", "HYPOTHESIS_STORAGE_DIRECTORY": f"{room}/hypothesis",
    }  # fmt: skip


class Warden(Judge):
    """Judges as `Judge` does. `charges`: what the child was seen to do that is no mistake of a learner's."""

    def __init__(self, target: Path, tests: list[Test], own: str, terms: Terms, until: float):
        super().__init__(target, tests, seconds=terms.seconds)
        self.own, self.terms, self.until, self.charges = own, terms, until, []
        self.heard = False  # whether the child has reported anything

    def attempt(self, left: list[str]) -> str:
        """As `judge.attempt`, with the wall around the child and somebody who watches it."""
        if time.monotonic() > self.until:
            return self.over()
        self.heard = False
        with tempfile.TemporaryDirectory(prefix="thirty-report-", ignore_cleanup_errors=True) as folder:
            report, output = Path(folder) / "report.jsonl", Path(folder) / "output.txt"
            report.touch()
            report.chmod(0o666)  # whoever it is that writes behind the wall; the folder lets nobody else in
            key = secrets.token_hex(32)
            child = self.start(report, output, {"key": key, "tests": left, "imports": self.imports(left)})
            try:
                with watched(child, self.until, self.terms.memory * GB) as stopped:
                    why = judge.watch(child, report, self.seconds, self.hear, Signed(key))
            finally:
                judge.kill(child)
            if why and not self.heard:
                why += last_words(output)
            if stopped == ["time"]:
                return self.over()
            return f"took over {self.terms.memory:g} GB of memory" if stopped else why

    def start(self, report: Path, output: Path, plan: dict) -> subprocess.Popen:
        """The child, which was told what to do."""
        stand, witness = report.with_name("stand"), self.target / ".witness"
        stand.mkdir()
        wall = self.terms.plan(stand, self.target, [witness], [report])
        room = self.terms.room(stand)
        told = {**plan, "room": [room],
                "closed": [] if self.terms.walled else [str(paths.ROOT), *self.terms.hidden]}  # fmt: skip
        sealed = [sys.executable, "-c", launch.BOOT, str(self.target), "common.cli.sealed", str(report)]
        with open(output, "wb") as file:
            child = subprocess.Popen(
                [*PYTHON, str(WALL), json.dumps(wall), *sealed], env=environment(self.target, room),
                stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT,
                bufsize=0, start_new_session=True,
            )  # fmt: skip
        with suppress(BrokenPipeError), child.stdin:  # it may end before it reads: the judge says how
            child.stdin.write(json.dumps(told).encode() + b"\n")
        return child

    def over(self) -> str:
        return f"was stopped: the {self.terms.minutes:g} minutes for the project were over"

    def imports(self, left: list[str]) -> list[tuple[str, list[str]]]:
        """What the tests import and is not the submission's: in place, and sealed, before that comes."""
        everything = proofs.libraries(self.target, [proofs.Proof("", "pass", tuple(left))])
        return [
            (module, names) for module, names in everything if not f"{module}.".startswith(f"{self.own}.")
        ]

    def hear(self, event: dict) -> None:
        """Take in one line, or what it accuses the child of."""
        kind, self.heard = event.get("event"), True
        if kind == "forged":
            self.charge("wrote into the report, where only the judge writes")
        elif kind == "tampered":
            self.charge("exchanged what is not its own: " + ", ".join(event["what"]))
        elif kind == "tried":
            self.charge("while it was imported, it " + ", ".join(event["what"]))
        else:
            super().hear(event)

    def charge(self, what: str) -> None:
        if what not in self.charges and len(self.charges) < 20:
            self.charges.append(what)

    def never_ran(self, why: str) -> None:
        if why != self.over():
            super().never_ran(why)
        for test in self.tests.values():
            if test.id not in self.results:
                self.add(Result(test, "failed", f"not run: the project {why}", kind="NotRun"))


def last_words(output: Path) -> str:
    """The last line that a process printed which ended before its first test."""
    with open(output, "rb") as file:
        file.seek(max(0, output.stat().st_size - 2000))
        lines = file.read().decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()][-1:]
    return f"; it said last: {said[0][:200]}" if said else ""


class Signed:
    """Reads a line of the report: its event, or {"event": "forged"} where the code is not the next one's."""

    def __init__(self, key: str):
        self.key, self.number = bytes.fromhex(key), 0

    def __call__(self, line: str) -> dict:
        code, _, text = line.partition(" ")
        if not hmac.compare_digest(code.encode(), sign(self.key, self.number, text).encode()):
            return {"event": "forged"}
        self.number += 1
        return json.loads(text)


@contextmanager
def watched(child: subprocess.Popen, until: float, memory: float) -> Iterator[list[str]]:
    """Kill the child when its time is over or its processes hold too much; what it was then stands in the
    list."""
    why: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            if time.monotonic() > until:
                why.append("time")
            elif held(child.pid) > memory:
                why.append("memory")
            if why:
                with suppress(ProcessLookupError):  # it ended just now
                    os.killpg(child.pid, 9)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield why
    finally:
        done.set()
        thread.join()


def held(pid: int) -> int:
    """Bytes of memory of its own that a process and all below it hold; 0 where the system does not say."""
    below, found, sizes = {}, [pid], {}
    for name in (name for name in safe(partial(os.listdir, "/proc"), []) if name.isdigit()):
        text = safe(Path(f"/proc/{name}/status").read_text, "")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        below.setdefault(int(fields.get("PPid", 0)), []).append(int(name))
        sizes[int(name)] = sum(int(fields.get(kind, "0").split()[0]) for kind in ("RssAnon", "RssShmem"))
    for one in found:
        found += below.get(one, [])
    return sum(sizes.get(one, 0) for one in found) * 1024


def safe(read: Callable, otherwise):
    """What a process that may end at any moment says of itself."""
    try:
        return read()
    except OSError:
        return otherwise
