"""Runs tests in a shadow tree, in a process of its own, and says which passed: the parent side of `check`.

What the child says is believed only where it adds up: a test passed if it was expected (read from the real
test files), every one of its cases was reported as passed, and the process went on to a proper end. A test
that ends the process (`os._exit`, a crash) or runs out of time fails, the whole process tree is killed, and
the others go on in a new child.

This withstands mistakes, not malice: a file that sets out to deceive lives in the process that reports on it.
Whoever grades the files of strangers puts a wall around `attempt`, the one place where a child is started
(`common/cli/warden.py`).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from common.cli import launch
from common.lesson import Test
from common.recorder import function_of

STARTING = 120.0  # seconds that importing torch and the tests may take on a slow disk

# One thread: tensors of tests are tiny, and on a busy machine threads wait for each other: 17 s, not 0.2.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}


@dataclass(frozen=True)
class Result:
    """How a test went: passed, failed or skipped; why, in a line or two; where, as `path:line`."""

    test: Test
    outcome: str
    message: str = ""
    where: str | None = None
    kind: str = ""
    detail: str = ""
    cases: int = 1


class Judge:
    """Runs `tests` in `target`, each for at most `seconds`, and says each Result as soon as it is there."""

    def __init__(self, target: Path, tests: Iterable[Test], *, seconds: float = 30.0,
                 say: Callable[[Result], None] = lambda result: None):  # fmt: skip
        self.target, self.seconds, self.say = target, seconds, say
        self.tests = {test.id: test for test in tests}
        self.results: dict[str, Result] = {}
        self.waiting: dict[str, list[str]] = {}  # test -> cases of it that have not ended
        self.broken: dict[str, dict] = {}  # test file -> why it could not be imported
        self.last: str | None = None  # the test that began last,
        self.open = False  # and whether it has not ended

    def run(self) -> list[Result]:
        """Every test's result, in the order given."""
        while left := [test for test in self.tests if test not in self.results]:
            self.waiting, self.broken, self.last, self.open = {}, {}, None, False
            why = self.attempt(left)
            if self.last and (why or self.open):
                self.stopped(self.tests[self.last], why or "stopped the whole test run")
            else:
                self.never_ran(why)
        return [self.results[test] for test in self.tests]

    def attempt(self, left: list[str]) -> str:
        """Run these tests in a child; "" if it came to a proper end, else why it did not."""
        return attempt(self.target, left, self.seconds, self.hear)

    def hear(self, event: dict) -> None:
        """Take in one line of the child's report."""
        if event["event"] == "collected":
            for case in event["tests"]:
                self.waiting.setdefault(function_of(case), []).append(case)
        elif event["event"] == "broken":
            self.broken[event["path"]] = event
        elif event["event"] == "begin":
            self.last, self.open = function_of(event["test"]), True
        elif event["event"] == "end":
            self.open = False
            self.ended(function_of(event["test"]), event)

    def ended(self, name: str, event: dict) -> None:
        """A case of a test has ended, the test with its last case; the first failure stands for all."""
        test, cases = self.tests[name], self.waiting[name]
        cases.remove(event["test"])
        before = self.results.get(name)
        said = {name: event[name] for name in ("message", "where", "kind", "detail") if name in event}
        result = Result(test, event["outcome"], **said)
        if before is not None:
            worse = result if before.outcome != "failed" and result.outcome != "passed" else before
            result = replace(worse, cases=before.cases + 1)
        self.results[name] = result
        if not cases:
            self.say(result)

    def stopped(self, test: Test, why: str) -> None:
        """A test that took the process with it; what else judges its exercise is not tried again."""
        self.add(Result(test, "failed", why, kind="Stopped"))
        for other in self.tests.values():
            if other.id not in self.results and set(other.judges) & set(test.judges):
                self.add(Result(other, "failed", f"not run, because of “{test.title}”", kind="NotRun"))

    def never_ran(self, why: str) -> None:
        """What is left after a child's end: tests whose file was broken, or that were not there at all."""
        for test in self.tests.values():
            if test.id not in self.results:
                event = self.broken.get(test.id.partition("::")[0], {})
                message = event.get("message") or (f"importing the files {why}" if why else "did not run")
                self.add(Result(test, "failed", message, event.get("where"), event.get("kind", "NotRun")))

    def add(self, result: Result) -> None:
        self.results[result.test.id] = result
        self.say(result)


def attempt(target: Path, tests: list[str], seconds: float, hear: Callable[[dict], None]) -> str:
    """Run these tests in one child; "" if it came to a proper end, else why it did not."""
    with tempfile.TemporaryDirectory(prefix="thirty-report-", ignore_cleanup_errors=True) as folder:
        report = Path(folder) / "report.jsonl"
        report.touch()
        command = [sys.executable, "-c", launch.BOOT, str(target), "common.recorder", str(report), *tests]
        env = launch.environment(target, ENVIRONMENT)
        with open(
            Path(folder) / "output.txt", "wb"
        ) as output:  # a pipe would be held open by whatever a test starts
            child = subprocess.Popen(command, cwd=target, env=env, stdin=subprocess.DEVNULL, stdout=output,
                                     stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
            try:
                return watch(child, report, seconds, hear)
            finally:
                kill(child)


def watch(child: subprocess.Popen, report: Path, seconds: float, hear: Callable[[dict], None],
          read: Callable[[str], dict] = json.loads) -> str:  # fmt: skip
    """Hand on the child's lines until it ends or is silent for too long; "", or why it did not end well."""
    since, limit, finished, partial = time.monotonic(), STARTING, False, ""
    with open(report, encoding="utf-8", errors="replace") as file:
        while True:
            code = child.poll()  # before reading, so that nothing written before the end is missed
            *lines, partial = (partial + file.read()).split("\n")
            for event in map(read, lines):
                hear(event)
                finished = finished or (event["event"] == "finished" and event["status"] in (0, 1, 5))
                since, limit = time.monotonic(), seconds
            if finished or code is not None:
                return "" if finished else ending(code)
            if time.monotonic() > since + limit:
                return f"took over {limit:g} s: an endless loop?"
            time.sleep(0.02)


def ending(code: int) -> str:
    """A process's end in words; pytest itself ends with 2 where a test interrupts it."""
    name = signal.Signals(-code).name if code < 0 and os.name == "posix" else f"exit code {code}"
    return "stopped the whole test run" if code == 2 else f"ended the whole process ({name})"


def kill(child: subprocess.Popen) -> None:
    """End a child and everything it started."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(child.pid)], capture_output=True, check=False)
    else:
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
