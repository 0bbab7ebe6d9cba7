"""Runs the proofs of one project, each in a child forked from a process that has run no operation yet.

`python -m common.nursery PLAN` is started by `common/proofs.py` in a shadow tree. A child begins with all
imported that takes seconds, so that a proof costs a fraction of one. No operation runs before the fork: a
child of a process whose thread pool has started waits for those threads for ever. Where there is no safe fork
(macOS, Windows) children are spawned: the same proofs, slower. PLAN is JSON:

    {"method": "fork" | "spawn",
     "roots": [tree, …],  one worker for each, so that no two proofs lay files over the same tree
     "imports": [[module, [name, …]], …],
     "jobs": [{"lay": {place: path of what lies there}, "tests": [id, …], "report": path, "log": path,
               "seconds": limit, "options": [pytest's, …]}, …]}
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


def main(plan: Path) -> int:
    """Import once, then share the jobs out among one worker for each root; 0 if each came to its end."""
    values = json.loads(plan.read_text(encoding="utf-8"))
    for module, names in values["imports"]:
        preload(module, names)
    gc.freeze()  # pytest collects garbage at its end, and would walk through all of torch
    roots, jobs, method = values["roots"], values["jobs"], values["method"]
    shares = [(root, jobs[i :: len(roots)], method) for i, root in enumerate(roots)]
    workers = [multiprocessing.get_context(method).Process(target=work, args=share) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(abs(worker.exitcode) for worker in workers)


def work(root: str, jobs: list[dict], method: str) -> None:
    """Job after job: its files are laid over the tree, its tests run in a child, the tree is mended."""
    os.chdir(root)
    sys.path[0] = root
    sys.modules["common"].__path__[:] = [os.path.join(root, "common")]  # imported before, from the first root
    sys.dont_write_bytecode = True  # two versions of a file, equal in size and second, would share one .pyc
    for job in jobs:
        with laid(job["lay"]):
            child = multiprocessing.get_context(method).Process(target=prove, args=(job,))
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
    alone(job)
    recorder.run(Path(job["report"]), job["tests"], tuple(job["options"]))


def alone(job: dict) -> None:
    """In the child: a process group of its own, to be ended as one, and the job's log for what it prints."""
    if os.name == "posix":
        os.setsid()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def end(child: multiprocessing.Process) -> None:
    """End a child, and what it started, if it still runs."""
    if os.name == "posix":
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
