"""The folder of a run: made, resumed or refused, never overwritten; one process at a time."""
import json
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO

from common.errors import UserError
from common.files import write_json


@dataclass(frozen=True)
class Place:
    """A folder, ours until `lock` closes; `resumed` when an unfinished run of the same config is in it."""
    folder: Path
    resumed: bool
    lock: IO | None = None


def choose(base: Path, identity: dict, out: Path | None = None, resume: bool = False) -> Place:
    """`out`, or the first of `base`, `base-2`, … that is free or holds an unfinished run like this one.

    identity says what makes two runs the same (script, preset, config) in what JSON can hold. With `resume`,
    UserError where nothing is there to resume.
    """
    place = at(out, identity) if out else in_line(base, identity)
    if resume and not place.resumed:
        place.lock and place.lock.close()
        raise UserError(f"nothing to resume: {out or base.parent} holds no unfinished run of this preset and "
                        "these settings; leave out --resume to start one")
    write_json(place.folder / "config.json", identity)
    return place


def in_line(base: Path, identity: dict) -> Place:
    for k in count(1):
        folder = base if k == 1 else base.with_name(f"{base.name}-{k}")
        state = look(folder, identity)
        if state in ("free", "unfinished") and (lock := acquire(folder)):
            return Place(folder, state == "unfinished", lock)
    raise AssertionError("unreachable")


def at(out: Path, identity: dict) -> Place:
    """The folder that the user named; UserError where going on would overwrite something."""
    state = look(out, identity)
    why = {"finished": "holds a finished run", "other": "holds a run with other settings",
           "foreign": "is not empty and holds no run"}.get(state)
    lock = None if why else acquire(out)
    if lock is None:
        raise UserError(f"--out {out} {why or 'is in use by another run'}: name another folder, or remove it")
    return Place(out, state == "unfinished", lock)


def look(folder: Path, identity: dict) -> str:
    """free | unfinished (the same run) | other | finished | foreign"""
    if not folder.exists():
        return "free"
    if not folder.is_dir():
        return "foreign"
    if (folder / "result.json").exists():
        return "finished"
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "foreign" if any(f.name != "lock" for f in folder.iterdir()) else "free"
    except ValueError:
        return "other"
    return "unfinished" if known == identity else "other"


def acquire(folder: Path) -> IO | None:
    """Make the folder and lock it; the system lets go when the process ends. None: in use."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = open(folder / "lock", "a", encoding="utf-8")  # noqa: SIM115 - held open for as long as the run
    try:
        if os.name == "nt":
            import msvcrt
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        handle.close()
        return None
    except OSError:  # a file system without locks: go on without one
        return handle
    return handle
