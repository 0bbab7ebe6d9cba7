"""Whether the wall stands on this machine: a program tries to get over it before any submission does."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from sys import executable, platform

from common import judge
from common.cli import paths
from common.cli.warden import PYTHON, WALL, Terms, environment

# What a prisoner can do. It says what it reached; an empty list, or False, is a wall that stands.
PROBE = """
import json, os, signal, socket, sys
from time import sleep
hidden, limit, memory, size, walled = json.loads(sys.argv[1])

def done(act):
    try:
        act()
    except (OSError, MemoryError, OverflowError):
        return False
    return True

def make(path):
    with open(os.path.join(path, "thirty-probe"), "x"):
        os.remove(os.path.join(path, "thirty-probe"))

def truncate():
    with open(os.path.join(os.environ["TMPDIR"], "large"), "wb") as file:
        file.truncate(size + 1)

children = []
try:
    while len(children) <= limit:
        if (child := os.fork()) == 0:
            sleep(60)
            os._exit(0)
        children.append(child)
except OSError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
everywhere = [os.getcwd(), sys.prefix, "/", "/etc", "/usr", *hidden]
print(json.dumps({
    "network": [name for _, name in socket.if_nameindex() if name != "lo"],
    "writing": [path for path in everywhere
                if (done(lambda: make(path)) if walled else os.access(path, os.W_OK))],
    "reading": [path for path in hidden if os.path.isdir(path) and set(os.listdir(path)) - {".venv"}],
    "processes": len(children) > limit,
    "memory": done(lambda: bytearray(memory)),
    "files": done(truncate),
}))
"""
WORDS = {
    "network": "network: none but its own loopback",
    "writing": "writing: nothing on this machine, only to memory that ends with it",
    "reading": "reading: neither the course's checkout nor the folder of submissions",
    "processes": "processes: no more than the limit, and none outlives its test",
    "memory": "memory: no more than the limit",
    "files": "files: no larger than 64 MB",
}


@dataclass(frozen=True)
class Proof:
    """What was tried and did not work: wall -> whether it stands; `problem`: why there is none at all."""

    stands: dict[str, bool]
    problem: str = ""

    @property
    def whole(self) -> bool:
        return not self.problem and all(self.stands.values())

    def lines(self) -> list[str]:
        """A line for each wall, for people."""
        return [f"- {'stands' if self.stands.get(name) else 'DOES NOT STAND'}: {words}"
                for name, words in WORDS.items()]  # fmt: skip


def prove(terms: Terms) -> Proof:
    """Run the probe under these terms, with at most 512 MB and 24 processes for itself."""
    if not terms.walled and platform == "win32":
        return Proof({}, "there are no limits for processes on Windows")
    if terms.walled and platform != "linux":
        return Proof({}, "only Linux has the namespaces it is made of")
    with tempfile.TemporaryDirectory(prefix="thirty-") as folder:
        stand, tree = Path(folder) / "stand", Path(folder) / "tree"
        stand.mkdir()
        tree.mkdir()
        plan = Terms(memory=0.5, processes=24, walled=terms.walled, hidden=terms.hidden).plan(stand, tree)
        asked = [[str(paths.ROOT), *terms.hidden], 24, *(plan["limits"][name] for name in ("DATA", "FSIZE"))]
        asked.append(terms.walled)
        command = [*PYTHON, str(WALL), json.dumps(plan), executable, "-c", PROBE, json.dumps(asked)]
        child = subprocess.Popen(command, env=environment(tree, terms.room(stand)), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
                                 start_new_session=True)  # fmt: skip
        try:
            said, problem = child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            return Proof({}, "the probe did not come back")
        finally:
            judge.kill(child)
    if child.returncode:
        return Proof(
            {}, problem.strip().splitlines()[-1] if problem.strip() else f"exit code {child.returncode}"
        )
    return Proof({name: not reached for name, reached in json.loads(said).items()})
