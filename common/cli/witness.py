"""What stands in the place of `common/exercise.py` in a shadow tree: `@exercise` that says whose file was
imported.

A technique file runs its decorators while it is imported, in every process that imports it: the first one,
spawned ranks, torchrun's workers. So each of them notes here which file that was, as hashed at that moment,
one note for a process and a file under `.witness/` in the root of the tree; and says so on stderr where the
file is the learner's. A learner's file that is never imported leaves no note, and `check` fails. The file of
the learner itself stays as it is, byte for byte.
"""

import hashlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def exercise(function):
    """Mark a function or method that the learner writes; returned unchanged, after a note of its file."""
    note(Path(sys._getframe(1).f_code.co_filename).resolve())
    return function


def note(path: Path) -> None:
    """Write down, once, that this process imported this file."""
    place = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    target = (
        ROOT
        / ".witness"
        / f"{os.getpid()}-{hashlib.sha256(place.encode()).hexdigest()[:8]}-{digest[:12]}.json"
    )
    if target.exists():
        return
    value = {"process": process(), "pid": os.getpid(), "place": place, "sha256": digest}
    partial = target.with_suffix(".part")
    partial.write_text(json.dumps(value), encoding="utf-8")
    os.replace(partial, target)
    shadow = json.loads((ROOT / ".shadow.json").read_text(encoding="utf-8"))
    if shadow["aloud"] and place in shadow["laid"]:
        print(f"[thirty] {process()} runs {shadow['laid'][place]}, sha256 {digest[:12]}", file=sys.stderr)


def process() -> str:
    """How this process is called: its rank where torchrun gave it one, else its name."""
    if "RANK" in os.environ:
        return f"rank {os.environ['RANK']}"
    name = multiprocessing.current_process().name
    return "main process" if name == "MainProcess" else name
