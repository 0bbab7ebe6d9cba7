"""Runs the tests of a submission and reports so that it is hard to lie: the child side of `grade`.

`python -m common.cli.sealed REPORT` reads from its input one line of JSON: {"key", "tests", "imports": what
the tests import besides the submission, "room": [folder, …] to write in, "closed": [folder, …] not to be
read}. To what `common/recorder.py` does it adds

- a signature with a key that was read before the submission was there: each line of the report is its code
  (HMAC-SHA256 of its number and text) and its text, so that a line of somebody else is seen;
- a seal: functions and classes of pytest, of the libraries, of the course and of the tests, by identity,
  compared after every test. {"event": "tampered", "what": [name, …]} where one was exchanged;
- a guard: Python tells it (PEP 578) before a file is written, removed or renamed, and before a connection is
  made. Outside of the room it refuses; the test in which that happened has failed, and what was tried while
  files were imported is {"event": "tried", "what": [text, …]}.

All this lies in one process with the submission. It withstands what is in reach of plain Python; who takes
the interpreter apart from inside is held by the wall (`common/cli/wall.py`) but may deceive the report.
"""

import hashlib
import hmac
import json
import os
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from common import nursery
from common.recorder import Recorder, run

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,)} | {  # event -> which arguments are paths
    f"os.{name}": (0,) for name in ("remove", "rmdir", "mkdir", "chmod", "chown", "truncate", "utime")
}
SEALED = {"builtins", "math", "operator", "random", "unittest", "pytest", "_pytest", "pluggy", "hypothesis",
          "common", "data", "numpy", "numpy.testing", "torch", "torch.testing", "torch.nn.functional",
          "torch._tensor", "torch.testing._comparison", "torch.autograd"}  # fmt: skip
COMPARING = {
    "allclose",
    "isclose",
    "equal",
    "eq",
    "ne",
    "all",
    "any",
    "testing",
}  # of torch: it exchanges others
ALSO = ("_pytest.", "common.", "data.", "phase")  # the beginnings of others


def sign(key: bytes, number: int, text: str) -> str:
    """The code of a report's line."""
    return hmac.new(key, f"{number} {text}".encode(), hashlib.sha256).hexdigest()


class Seal:
    """What modules hold, to see when something in them was exchanged."""

    def __init__(self):
        self.held, self.seen = {}, set()

    def take(self, tests: set[ModuleType] = frozenset()) -> None:
        """Seal what has come since the last time: what is to be sealed, and these test modules whole."""
        for name, module in list(sys.modules.items()):
            course = name in SEALED or name.startswith(ALSO)
            if course and module not in self.seen | tests:
                self.seen.add(module)
                table = vars(module)
                if name == "torch":
                    table = {word: value for word, value in table.items() if word in COMPARING}
                self.keep(name, vars(module), table, callable)
        for module in tests - self.seen:
            self.seen.add(module)
            self.keep(module.__name__, vars(module), vars(module), lambda value: True)

    def keep(self, place: str, table: dict, chosen: dict, wanted) -> None:
        """Hold on to what a module or a class has under names, and to the code of functions."""
        for name, value in list(chosen.items()):
            if name.startswith("__") or not wanted(value):
                continue
            self.held[place, name] = table, value, getattr(value, "__code__", None)
            if isinstance(value, type) and value.__module__ == place:
                inner = vars(value)
                self.keep(f"{place}.{name}", inner, inner, lambda each: isinstance(each, FunctionType))

    def broken(self) -> list[str]:
        """The names under which something else stands now."""
        return [f"{place}.{name}" for (place, name), (table, value, code) in self.held.items()
                if table.get(name) is not value or getattr(value, "__code__", None) is not code]  # fmt: skip


class Guard:
    """The audit hook: refuses what a submission has no business to do, and remembers it."""

    def __init__(self, room: list[str], closed: list[str], tree: Path):
        self.tree, self.notes = f"{tree}/", f"{tree}/.witness/"
        self.room = tuple(os.path.join(os.path.realpath(path), "") for path in room)
        self.closed = tuple(os.path.join(os.path.realpath(path), "") for path in closed)
        self.tried: list[str] = []

    def __call__(self, event: str, args: tuple) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(path, int) and path is not None:
                self.open(os.fsdecode(path), bool(flags & WRITES))
        elif event in CHANGES:
            for place in CHANGES[event]:
                path = args[place]
                beside = event != "os.truncate" and args[-1] != -1  # named from another folder, by its number
                if not isinstance(path, int) and not (beside and not os.path.isabs(path)):
                    self.open(os.fsdecode(path), True)
        elif event == "socket.connect" and isinstance(args[1], tuple):
            self.connect(str(args[1][0]))

    def connect(self, host: str) -> None:
        if not host.startswith(("127.", "::1", "localhost")):
            self.refuse(f"tried to reach {host} over the network")

    def open(self, path: str, write: bool) -> None:
        at = os.path.join(os.path.realpath(path), "")
        free = at.startswith((*self.room, "/dev/", "/proc/self/")) and not at.startswith(self.tree)
        if write and not free and not at.startswith(self.notes):
            self.refuse(f"tried to write {path}")
        if at.startswith(self.closed) and not at.startswith((*self.room, sys.prefix, sys.base_prefix)):
            self.refuse(f"tried to read {path}")

    def refuse(self, what: str) -> None:
        self.tried.append(what)
        raise PermissionError(f"{what}: a submission may not")


class Sealed(Recorder):
    """The recorder that signs, and looks at the seal and at the guard's list after every test."""

    def __init__(self, report: Path, plan: dict, guard: Guard):
        super().__init__(report, plan["tests"])
        self.key, self.number, self.guard, self.seal = bytes.fromhex(plan["key"]), 0, guard, Seal()
        self.file = os.open(report, os.O_WRONLY | os.O_APPEND)

    def write(self, event: str, **values) -> None:
        if os.getpid() != self.pid:
            return
        text = json.dumps({"event": event, **values})
        os.write(self.file, f"{sign(self.key, self.number, text)} {text}\n".encode())
        self.number += 1

    @pytest.hookimpl(trylast=True)  # pytest has put itself together, and nothing of the submission is there
    def pytest_sessionstart(self, session):
        self.seal.take()

    def pytest_collection_finish(self, session):
        self.accuse()
        if self.guard.tried:
            self.write("tried", what=self.guard.tried[:5])
        self.seal.take({item.module for item in session.items})
        self.guard.tried.clear()
        super().pytest_collection_finish(session)

    def pytest_runtest_logfinish(self, nodeid):
        self.accuse()
        if self.guard.tried:
            message = f"{self.guard.tried[0]}: a submission may not"
            self.failure = ("failed", {"message": message, "where": None, "kind": "Refused", "detail": ""})
            self.guard.tried.clear()
        super().pytest_runtest_logfinish(nodeid)

    def accuse(self) -> None:
        """Say what is not what it was."""
        if broken := self.seal.broken():
            self.write("tampered", what=broken[:5])


def main(report: Path) -> int:
    plan = json.loads(sys.stdin.readline())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for module, names in plan["imports"]:
        nursery.preload(module, names)
    guard = Guard(plan["room"], plan["closed"], Path.cwd())
    recorder, tests = Sealed(report, plan, guard), plan.pop("tests")
    plan.clear()
    sys.addaudithook(guard)
    return run(report, tests, recorder=recorder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
