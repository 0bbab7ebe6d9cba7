"""Runs pytest on some tests and writes what happens, a JSON object a line: the child side of `check`.

`python -m common.recorder REPORT TEST …` is started by `common/judge.py` with a shadow tree as its folder.
REPORT lies outside the tree under a name that is new every time, so that nothing a learner prints gets into
it; a process forked by a test carries this plugin along, and its lines are dropped, because they come from
another process id.

    {"event": "collected", "tests": [id, …]}
    {"event": "broken", "path", "message", "where", "kind"}            a test file that could not be imported
    {"event": "begin", "test": id}
    {"event": "end", "test": id, "outcome": "passed" | "failed" | "skipped", "message", "where", "kind",
     "detail" (the whole traceback of a failure), "seconds"}
    {"event": "finished", "status": pytest's exit status}     missing where the process did not come so far
"""

import json
import os
import sys
import time
from pathlib import Path

import pytest

OPTIONS = (
    "-q",
    "-c",
    "pyproject.toml",
    "-p",
    "no:cacheprovider",
    "--tb=short",
    "--continue-on-collection-errors",
)


class Recorder:
    """The pytest plugin that keeps the wanted tests, in their order, and writes the lines."""

    def __init__(self, report: Path, wanted: list[str]):
        self.report, self.wanted, self.pid = report, {test: i for i, test in enumerate(wanted)}, os.getpid()
        self.began, self.failure = 0.0, None

    def write(self, event: str, **values) -> None:
        if os.getpid() == self.pid:
            with open(self.report, "a", encoding="utf-8") as file:
                file.write(json.dumps({"event": event, **values}) + "\n")

    @pytest.hookimpl(trylast=True)  # behind pytest's own ordering by fixtures
    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if self.place(item) is not None]
        items.sort(key=self.place)

    def place(self, item) -> int | None:
        """Where a test stands among the wanted ones, by its function or its whole file; None: not wanted."""
        test = function_of(item.nodeid)
        return self.wanted.get(test, self.wanted.get(test.partition("::")[0]))

    def pytest_collection_finish(self, session):
        self.write("collected", tests=[item.nodeid for item in session.items])

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        report = yield
        if report.failed:
            self.write("broken", path=report.nodeid, **explain(report.call.excinfo))
        return report

    def pytest_runtest_logstart(self, nodeid):
        self.began, self.failure = time.perf_counter(), None
        self.write("begin", test=nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed:
            self.failure = ("failed", {**explain(call.excinfo), "detail": report.longreprtext[-20000:]})
        elif report.skipped and self.failure is None:
            self.failure = ("skipped", explain(call.excinfo))
        return report

    def pytest_runtest_logfinish(self, nodeid):
        outcome, words = self.failure or ("passed", {})
        self.write(
            "end", test=nodeid, outcome=outcome, seconds=round(time.perf_counter() - self.began, 3), **words
        )


def function_of(test: str) -> str:
    """`tests/test_x.py::test_y[case]` -> `tests/test_x.py::test_y`"""
    return test.partition("[")[0]


def explain(info: pytest.ExceptionInfo | None) -> dict[str, str | None]:
    """A failure in a line or two, the kind of exception, and its last line that lies outside the tests."""
    if info is None:  # a test marked xfail that passed
        return {"message": "passed, and was expected to fail", "where": None, "kind": "XPass"}
    if isinstance(info.value, pytest.Collector.CollectError) and info.value.__cause__ is not None:
        info = pytest.ExceptionInfo.from_exception(info.value.__cause__)  # pytest wraps what an import raised
    places = [(Path(entry.path), entry.lineno + 1) for entry in info.traceback]
    if isinstance(info.value, SyntaxError) and info.value.filename:
        places.append((Path(info.value.filename), info.value.lineno or 1))
    inside = [
        (path, line) for path, line in places if path.is_relative_to(Path.cwd()) and "tests" not in path.parts
    ]
    where = f"{inside[-1][0].relative_to(Path.cwd()).as_posix()}:{inside[-1][1]}" if inside else None
    unreadable = isinstance(info.value, SyntaxError)  # of which the words are the last of four lines
    words = f"{info.typename}: {info.value.msg}" if unreadable else info.exconly(tryshort=True)
    return {"message": brief(words.removeprefix("AssertionError: ")), "where": where, "kind": info.typename}


def brief(text: str) -> str:
    """The two lines of a message that say most: the first, and the greatest difference or the second."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["(no message)"]
    telling = [line for line in lines[1:] if line.startswith(("Greatest absolute", "Max absolute"))] or lines[
        1:2
    ]
    return "\n".join(line if len(line) <= 200 else line[:197] + "…" for line in [lines[0], *telling[:1]])


def run(
    report: Path, tests: list[str], options: tuple[str, ...] = (), recorder: Recorder | None = None
) -> int:
    """pytest's exit status for these tests; the last line is written when pytest has returned."""
    recorder = recorder or Recorder(report, tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    status = int(pytest.main([*OPTIONS, *options, *files], plugins=[recorder]))
    recorder.write("finished", status=status)
    return status


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
