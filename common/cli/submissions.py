"""What an instructor has on the disk: the terms of an assignment, and what each student handed in.

    FOLDER/assignment.json      projects, weights, due date, late penalty: as `thirty assign` wrote it
    FOLDER/students.csv         who should hand in, and when they did: columns student, submitted
    FOLDER/ada/…                a folder for each student, or
    FOLDER/bob.zip              a zip of it; with `my/projectNN_name/FILE.py` at any depth

Nothing is unpacked as it stands: of a zip only the Python files of the projects asked for are read, a bounded
length of each, and written under names that were chosen here.
"""

import csv
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

from common.errors import UserError

LONGEST = 400_000  # bytes of one file; the course's longest technique file has 15,000
MOST = 20_000  # files that are looked at in one submission


@dataclass(frozen=True)
class Assignment:
    """The terms. `late_per_day`: the part of the score that each day begun takes; after `late_days`: all."""

    projects: tuple[int, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    due: str | None = None
    grace_minutes: float = 15
    late_per_day: float = 0.1
    late_days: int = 5

    def weight(self, number: int) -> float:
        return float(self.weights.get(str(number), 1.0))

    def late(self, submitted: datetime | None) -> tuple[int, float]:
        """(days late, the part of the score that is left)."""
        if self.due is None or submitted is None:
            return 0, 1.0
        due = moment(self.due, "due")
        over = submitted.astimezone(due.tzinfo) - due
        if over <= timedelta(minutes=self.grace_minutes):
            return 0, 1.0
        days = math.ceil(over / timedelta(days=1))
        return days, max(0.0, 1 - days * self.late_per_day) if days <= self.late_days else 0.0


@dataclass(frozen=True)
class Submission:
    """What one student handed in: a folder, a zip, or None; when, and where that is known from."""

    student: str
    path: Path | None
    submitted: datetime | None = None
    known_from: str = ""


def moment(text: str, what: str) -> datetime:
    """A date and time, `2026-11-30T23:59+01:00`; without a zone that of this machine."""
    try:
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).astimezone()
    except ValueError:
        raise UserError(f"{what}: {text!r} is no date like 2026-11-30T23:59+01:00") from None


def assignment(path: Path, required: bool) -> Assignment:
    """The terms in a file; the usual ones where there is none and none is required."""
    if not path.is_file() and not required:
        return Assignment()
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Assignment)}
        if unknown := set(table) - known:
            raise ValueError(
                f"{', '.join(sorted(unknown))} means nothing here; it may hold {', '.join(sorted(known))}"
            )
        found = replace(Assignment(**table), projects=tuple(map(int, table.get("projects", ()))))
        numbers = [found.grace_minutes, found.late_per_day, found.late_days, *found.weights.values()]
        if not all(isinstance(number, int | float) and number >= 0 for number in numbers):
            raise ValueError("weights, grace and penalties are numbers from 0 up")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from None
    if found.due is not None:
        moment(found.due, f"{path}: due")
    return found


def submissions(folder: Path) -> list[Submission]:
    """Every student's, by name: those found in the folder, and those on its list who handed in nothing."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; it should hold a folder or a zip for each student")
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")) or not (path.is_dir() or path.suffix.lower() == ".zip"):
            continue
        name = path.name if path.is_dir() else path.stem
        if name in paths:
            raise UserError(
                f"{folder} holds {paths[name].name} and {path.name}: which is {name}'s? Move one away"
            )
        paths[name] = path
    listed = students(folder / "students.csv")
    everybody = sorted({*paths, *listed})
    if not everybody:
        raise UserError(f"{folder} holds no submission: a folder or a zip for each student")
    found = []
    for name in everybody:
        time, source = listed.get(name), "students.csv"
        if time is None and name in paths:
            time, source = newest(paths[name]), "the newest file handed in"
        found.append(Submission(name, paths.get(name), time, source if time else ""))
    return found


def students(path: Path) -> dict[str, datetime | None]:
    """Who is on the list, and when they handed in, where that is written there."""
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and "student" not in rows[0]:
        raise UserError(f"{path}: its first line must name the columns, one of them student")
    return {
        row["student"].strip(): moment(row["submitted"], f"{path}: {row['student']}")
        if (row.get("submitted") or "").strip() else None
        for row in rows if (row["student"] or "").strip()
    }  # fmt: skip


def newest(path: Path) -> datetime | None:
    """When the newest Python file was written, as far as the disk or the zip tells."""
    try:
        if path.is_dir():
            times = [datetime.fromtimestamp(os.lstat(at).st_mtime) for at, _ in in_folder(path)]
        else:
            with zipfile.ZipFile(path) as archive:
                times = [datetime(*info.date_time) for info, _ in in_zip(archive)]
    except (OSError, ValueError, zipfile.BadZipFile):
        return None  # the grading of this submission says what is wrong with it
    return max(times).astimezone() if times else None


def in_folder(folder: Path) -> Iterator[tuple[Path, PurePosixPath]]:
    """(file, its path below) for the Python files of a folder; no link is followed."""
    count = 0
    for at, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith((".", "__")))
        for name in sorted(files):
            count += 1
            path = Path(at, name)
            if count <= MOST and name.endswith(".py") and stat.S_ISREG(os.lstat(path).st_mode):
                yield path, PurePosixPath(path.relative_to(folder).as_posix())


def in_zip(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The same for a zip; an entry that is a link is left out."""
    for info in archive.infolist()[:MOST]:
        path = PurePosixPath(info.filename.replace("\\", "/"))
        hidden = any(part.startswith((".", "__")) for part in path.parts[:-1]) or path.name.startswith("._")
        if (
            path.suffix == ".py"
            and not info.is_dir()
            and not hidden
            and not stat.S_ISLNK(info.external_attr >> 16)
        ):
            yield info, path


def gather(path: Path, names: list[str], target: Path) -> list[str]:
    """Copy a submission's files of these projects to `target/projectNN_name/`; remarks on what was found."""
    remarks: list[str] = []
    try:
        if path.is_dir():
            inner = [p for p in sorted(path.iterdir()) if p.suffix.lower() == ".zip"]
            found = {below: at for at, below in in_folder(path)}
            if len(inner) == 1 and not chosen(
                list(found), names, []
            ):  # a folder that holds the student's zip
                return gather(inner[0], names, target)
            for below in chosen(list(found), names, remarks):
                with open(found[below], "rb") as file:
                    keep(file.read(LONGEST + 1), below, names, target, remarks)
        else:
            with zipfile.ZipFile(path) as archive:
                inside = {below: info for info, below in in_zip(archive)}
                for below in chosen(list(inside), names, remarks):
                    with archive.open(inside[below]) as file:
                        keep(file.read(LONGEST + 1), below, names, target, remarks)
    except (OSError, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile, EOFError) as error:
        remarks.append(f"{path.name} cannot be read: {error}")
    return remarks


def chosen(paths: list[PurePosixPath], names: list[str], remarks: list[str]) -> list[PurePosixPath]:
    """Of the folders that bear a project's name the one that counts: in `my/` first, then the shallowest."""
    files = []
    for name in names:
        places = sorted(
            {path.parent for path in paths if named(path.parent.name, name)},
            key=lambda at: (
                "my" not in at.parts,
                any(re.match(r"phase\d", part) for part in at.parts),
                len(at.parts),
                at,
            ),
        )
        if len(places) > 1:
            remarks.append(f"{name} is there {len(places)} times; {places[0]} was graded")
        files += [path for path in paths if places[:1] == [path.parent]]
    return files


def named(folder: str, project: str) -> bool:
    """project08_kv_cache, and also project08 or project8."""
    short = re.fullmatch(r"project0*(\d+)", folder)
    return folder == project or bool(short and int(short[1]) == int(project[7:9]))


def keep(source: bytes, below: PurePosixPath, names: list[str], target: Path, remarks: list[str]) -> None:
    """Write one file to its project's folder, under its own last name."""
    project = next(name for name in names if named(below.parent.name, name))
    if len(source) > LONGEST or not re.fullmatch(r"[A-Za-z0-9_]+\.py", below.name):
        remarks.append(f"{below} was left out: its name or its length is not that of a technique file")
        return
    (target / project).mkdir(parents=True, exist_ok=True)
    (target / project / below.name).write_bytes(source)
