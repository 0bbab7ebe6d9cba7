"""Proofs in children of one process that has collected the tests: the quick way, tried first.

Importing a project and its tests anew for each proof, as `common/nursery.py` does, costs more than the tests.
Here that is done once; then a child is forked for each proof, which puts other code into the function that
the proof is about and runs the tests, those that are soon done first. A function stays the same object,
whatever name others know it by. What the reference imports late is imported for all after it.

What is imported is the project with the bodies of its exercises cut out; those of the reference follow when
all is collected. So nothing that stands in a file of tests can have been computed by the reference, which
would judge the wrong solutions, and never the learner's.

This way only ever confirms. Where a proof does not hold here, or a function cannot be exchanged (a kernel of
Triton, a changed signature), `common/proofs.py` has it proved again from its files.

`python -m common.together PLAN`, in a shadow tree. PLAN is JSON, its jobs as for the nursery, the reference
first; each has `name` too, the function's:

    {"imports": …, "jobs": …, "names": {place: [function, …]}, "cut": {place: path of the file without them}}
"""

import ast
import gc
import inspect
import json
import sys
from contextlib import suppress
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from types import CellType, CodeType, FunctionType

import pytest

from common import nursery, stubs
from common.recorder import OPTIONS, Recorder, function_of


class Together:
    """The pytest plugin that does the jobs where pytest would run the tests."""

    def __init__(self, plan: dict):
        self.jobs, self.names = plan["jobs"], plan["names"]
        self.reference = {place: Path(place).read_bytes() for place in plan["cut"]}

    def pytest_runtestloop(self, session) -> bool:
        """A child for each job; none where the tests cannot be collected without the bodies."""
        for place, source in self.reference.items():
            Path(place).write_bytes(source)
        exchanged = [exchange(place, name, self.reference[place], self.reference[place])
                     for place, names in self.names.items() for name in names]  # fmt: skip
        if session.testsfailed or not all(exchanged):
            return True
        gc.freeze()
        reference, *others = self.jobs
        self.child(session, reference)
        if events := passed(Path(reference["report"])):
            for module in events[-1]["modules"]:
                nursery.preload(module, [])
            gc.freeze()
            seconds = seconds_of(events)
            for job in others:
                self.child(session, {**job, "tests": quickest_first(job["tests"], seconds)})
        return True

    def child(self, session, job: dict) -> None:
        """Fork, wait, end: as the nursery does, with the files in their places for whom the tests start."""
        with nursery.laid(job["lay"]):
            child = get_context("fork").Process(target=self.prove, args=(session, job))
            child.start()
            child.join(job["seconds"])
            nursery.end(child)

    def prove(self, session, job: dict) -> None:
        """In the child: the other code, then the tests. Without a report where it cannot be put in."""
        nursery.alone(job)
        for place in job["lay"]:
            known = job["name"] in self.names.get(place, ())
            if not known or not exchange(place, job["name"], Path(place).read_bytes(), self.reference[place]):
                return
        recorder, items = Recorder(Path(job["report"]), job["tests"]), list(session.items)
        before = set(sys.modules)
        recorder.pytest_collection_modifyitems(items)
        session.config.pluginmanager.register(recorder)
        session.config.option.maxfail = int("-x" in job["options"])
        recorder.write("collected", tests=[item.nodeid for item in items])
        for item, following in zip_longest(items, items[1:]):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail or session.shouldstop:
                break
        late = [module for module in sys.modules if module not in before and not self.ours(module)]
        recorder.write("finished", status=int(session.testsfailed > 0) if items else 5, modules=late)

    def ours(self, module: str) -> bool:
        """Of a folder in which files are laid: not to be imported before the tests ask for it."""
        return module.partition(".")[0] in {place.partition("/")[0] for place in self.names}


def exchange(place: str, name: str, source: bytes, reference: bytes) -> bool:
    """Put the code that `name` has in `source` into the function imported from `place`; False if that cannot
    be: it was not imported, is no plain function, or the signature differs from the reference's."""
    owner = sys.modules.get(module_of(place))
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part, None)
    found = vars(owner).get(last) if owner else None
    function = inspect.unwrap(getattr(found, "fget", getattr(found, "__func__", found)))
    if not isinstance(function, FunctionType) or signature(source, name) != signature(reference, name):
        return False
    code = code_of(compile(source, str(Path(place).resolve()), "exec", dont_inherit=True), name)
    if len(code.co_freevars) == len(function.__code__.co_freevars):
        function.__code__ = code
    elif function is found and isinstance(owner, type):  # super() in one of them: its class is a cell
        cells = tuple(CellType(owner) for _ in code.co_freevars)
        other = FunctionType(code, function.__globals__, last, function.__defaults__, cells)
        other.__kwdefaults__ = function.__kwdefaults__
        setattr(owner, last, other)
    else:
        return False
    return True


def module_of(place: str) -> str:
    """`phase01/project01/gpt.py` -> `phase01.project01.gpt`"""
    return place.removesuffix(".py").replace("/", ".")


def signature(source: bytes, name: str) -> str:
    """A function's parameters and their defaults, as written; without annotations."""
    parameters = next(node.args for found, node in stubs.named(ast.parse(source), "") if found == name)
    for node in ast.walk(parameters):
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.dump(parameters)


def code_of(code: CodeType, name: str) -> CodeType:
    """The code of a function within that of its file."""
    for part in name.split("."):
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == part)
    return code


def passed(report: Path) -> list[dict]:
    """What was reported of the reference; nothing where it did not come to its end or failed a test."""
    events = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    failed = any(event.get("outcome") == "failed" for event in events)
    return events if events and events[-1]["event"] == "finished" and not failed else []


def seconds_of(events: list[dict]) -> dict[str, float]:
    """What each test took, all its cases together."""
    seconds: dict[str, float] = {}
    for event in (event for event in events if event["event"] == "end"):
        test = function_of(event["test"])
        seconds[test] = seconds.get(test, 0.0) + event["seconds"]
    return seconds


def quickest_first(tests: list[str], seconds: dict[str, float]) -> list[str]:
    """By what they took the reference, those of one file together, for the sake of what they share."""
    files: dict[str, float] = {}
    for test in tests:
        file = test.partition("::")[0]
        files[file] = min(files.get(file, float("inf")), seconds.get(test, 0.0))

    def place(test: str) -> tuple:
        file = test.partition("::")[0]
        return files[file], file, seconds.get(test, 0.0)

    return sorted(tests, key=place)


def first_failure_will_do() -> None:
    """Have hypothesis look for no smaller failure: any proves as much."""
    with suppress(ImportError):
        from hypothesis import Phase, settings

        settings.register_profile("proofs", phases=[Phase.explicit, Phase.generate], database=None)
        settings.load_profile("proofs")


def main(path: Path) -> int:
    """Import, cut, collect, and do the jobs; none of them where a file was imported before it was cut."""
    plan = json.loads(path.read_text(encoding="utf-8"))
    for module, names in plan["imports"]:
        nursery.preload(module, names)
    sys.dont_write_bytecode = True
    first_failure_will_do()
    if any(module_of(place) in sys.modules for place in plan["cut"]):
        return 0
    together = Together(plan)
    for place, cut in plan["cut"].items():
        Path(place).write_bytes(Path(cut).read_bytes())
    files = dict.fromkeys(test.partition("::")[0] for job in plan["jobs"] for test in job["tests"])
    pytest.main([*OPTIONS, "-s", "--tb=line", *files], plugins=[together])
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
