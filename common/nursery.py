"""Runs the proofs of one project, each in a child forked from this process, which has run no operation.

`python -m common.nursery PLAN` is started by `common/proofs.py` in a shadow tree. A child begins with all
imported that takes seconds, so that a proof costs a fraction of one. No operation runs before the fork: a
child of a process whose thread pool has started waits for those threads for ever. Where there is no safe fork
(macOS, Windows) children are spawned: the same proofs, slower. PLAN is JSON:

    {"imports": [[module, [names]], …], "jobs": [{"lay": {place: path of what lies there}, "tests": [id, …],
     "report": path, "seconds": limit, "options": [pytest's], "log": path}, …]}
"""

import gc
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common import recorder


def main(plan: Path) -> None:
    """Import once, then run one job after the other: each lays its own files over the one tree."""
    sys.dont_write_bytecode = True  # two versions of a file, equal in size and second, would share one .pyc
    values = json.loads(plan.read_text(encoding="utf-8"))
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    for module, names in values["imports"]:
        preload(module, names)
    gc.freeze()  # pytest collects garbage at its end, and would walk through all of torch
    for job in values["jobs"]:
        with laid(job["lay"]):
            child = context.Process(target=prove, args=(job,))
            child.start()
            child.join(job["seconds"])
            end(child)


def preload(module: str, names: list[str]) -> None:
    """Import a library if it is there; a test that needs it and lacks it says so itself."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return
    for name in names:
        getattr(found, name, None)  # transformers loads a submodule when its name is first asked for


@contextmanager
def laid(files: dict[str, str]) -> Iterator[None]:
    """Other files in these places of the tree for a while."""
    before = {place: Path(place).read_bytes() for place in files}
    for place, path in files.items():
        shutil.copyfile(path, place)
    try:
        yield
    finally:
        for place, content in before.items():
            Path(place).write_bytes(content)


def prove(job: dict) -> None:
    """In the child: the job's tests, its output in the job's log."""
    sys.dont_write_bytecode = True
    if os.name == "posix":
        os.setsid()  # a group of its own, to be ended as one
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    recorder.run(Path(job["report"]), job["tests"], tuple(job["options"]))


def end(child: multiprocessing.Process) -> None:
    """End a child, and what it started, if it still runs."""
    if os.name == "posix":
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
