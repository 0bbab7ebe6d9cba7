"""The shadow tree: a copy of the sources with the learner's files over ours, for a process of its own.

No import hook: the copy is an ordinary folder, put first on the path of a new process, so that spawned ranks,
torchrun, pickled dataclasses and later projects all see the learner's file, and nothing else of that name
exists there. An in-process hook was tried before; its spawned children ran the reference without a word.

The root of a tree also holds `.shadow.json` (what was laid over: place -> original path) and `.witness/`,
where each process notes which technique files it imported (`common/cli/witness.py`). Models, corpora and runs
are not copied; `common.cli.launch` tells the child where they are.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import stubs
from common.errors import UserError

SOURCES = (
    "common",
    "data",
    "tests",
    "phase*",
)  # the folders of the root that are copied, and each plain file beside them
NOT_IN_DATA = {"cache", "models", "runs"}


@dataclass(frozen=True)
class Mine:
    """A file of the learner's. `place`: where it belongs, from the root; `left`: exercises still to write."""

    path: Path
    place: str
    sha256: str
    exercises: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def begun(self) -> bool:
        """Something of it is written (a file of helpers, which has no exercise, always is)."""
        return not self.exercises or len(self.left) < len(self.exercises)


@dataclass(frozen=True)
class Note:
    """What a process imported: a file's place in the tree (or path outside it), and its sha256 then."""

    process: str
    pid: int
    place: str
    sha256: str


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def tree(root: Path, mine: Iterable[Mine] = (), *, aloud: bool = False) -> Iterator[Path]:
    """A shadow tree of `root` with these files laid over it, for as long as the block lasts.

    `aloud`: each process says on stderr which of the files it imports; else it only leaves its note.
    """
    folder = Path(tempfile.mkdtemp(prefix="thirty-")).resolve()
    try:
        copy(root, folder / "root")
        lay(folder / "root", mine, aloud)
        yield folder / "root"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy(root: Path, target: Path) -> None:
    """The sources of `root`, without caches, hidden files, models and runs."""
    target.mkdir()
    for path in root.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, target)
    for path in {path for pattern in SOURCES for path in root.glob(pattern) if path.is_dir()}:
        shutil.copytree(
            path, target / path.name, ignore=lambda at, names: not_source(Path(at) == root / "data", names)
        )
    shutil.copy2(root / "common/cli/witness.py", target / "common/exercise.py")


def not_source(in_data: bool, names: list[str]) -> set[str]:
    """The names in a folder that are not sources; `data` itself also holds what was downloaded or trained."""
    skip = {name for name in names if name == "__pycache__" or name.startswith(".")}
    return skip | {name for name in names if in_data and (name in NOT_IN_DATA or name.endswith(".txt"))}


def lay(target: Path, mine: Iterable[Mine], aloud: bool) -> None:
    """The learner's files in their places, and the list of them for the witness."""
    laid = {}
    for file in mine:
        shutil.copy2(file.path, target / file.place)
        laid[file.place] = str(file.path)
    (target / ".witness").mkdir()
    (target / ".shadow.json").write_text(json.dumps({"aloud": aloud, "laid": laid}), encoding="utf-8")


def notes(target: Path) -> list[Note]:
    """What each process of a tree imported so far, in the order of their ids."""
    found = [
        Note(**json.loads(path.read_text(encoding="utf-8"))) for path in (target / ".witness").glob("*.json")
    ]
    return sorted(found, key=lambda note: (note.pid, note.place))


def mine(my: Path, folder: Path) -> list[Mine]:
    """The learner's files for the project in `folder`: its exercises, and helper modules under names of their
    own.

    A file that would replace anything else of the project (a script, a test, a conftest) is not taken.
    UserError in one line where a file does not parse or lacks an exercise.
    """
    files = []
    for path in sorted((my / folder.name).glob("*.py")):
        reference = folder / path.name
        wanted = tuple(stubs.marked(reference.read_bytes())) if reference.is_file() else ()
        if wanted or not (reference.is_file() or path.name == "conftest.py"):
            place = reference.relative_to(folder.parents[1]).as_posix()
            files.append(Mine(path, place, sha256(path), wanted, to_write(path, wanted)))
    return files


def to_write(path: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The exercises of a learner's file that are still stubs; UserError where it is broken."""
    try:
        found = {function.name: function for function in stubs.functions(path.read_bytes())}
    except SyntaxError as error:
        at = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{path}{at}: Python cannot read this: {error.msg}") from None
    except ValueError as error:
        raise UserError(f"{path}: Python cannot read this: {error}") from None
    for name in wanted:
        if name not in found:
            raise UserError(f"{path}: {name} is gone, and the tests call it; write it again, under that name")
        if not found[name].marked:
            raise UserError(
                f"{path}, line {found[name].first}: @exercise above {name} is gone; put it back, because it "
                "tells whose file was run"
            )
    return tuple(name for name in wanted if found[name].empty)


@contextmanager
def with_mine(my: Path, root: Path, say: Callable[[str], None] = print) -> Iterator[Path]:
    """The shadow tree that `--mine` runs in: every finished file of the learner's, of all projects, over
    ours.

    A file with a stub left in it stays ours, and `say` tells so. UserError where no file of the learner's is
    finished.
    """
    files = [file for folder in sorted(root.glob("phase*/project*")) for file in mine(my, folder)]
    for file in files:
        if file.left:
            say(f"{file.path}: {', '.join(file.left)} still to write; the reference runs in its place")
    done = [file for file in files if not file.left]
    if not done:
        raise UserError(f"--mine: {my} holds no finished file yet; `thirty start 1` writes the first stub")
    with tree(root, done, aloud=True) as target:
        yield target
