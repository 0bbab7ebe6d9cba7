"""Verb doctor: what works on this machine, what is missing, and what each missing thing costs."""
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.cli import extras, launch, paths

Line = tuple[str, str, str]  # (what, state: "ok" | "note" | "bad", what was found, or what its lack costs)


@dataclass(frozen=True)
class Doctor:
    def __call__(self) -> int:
        from rich.console import Console
        colours = {"ok": "green", "note": "yellow", "bad": "red"}
        bad = 0
        for look in (python, ours, torch, malloc, triton, compiler, disk, data, optional):
            for what, state, said in look():
                bad += state == "bad"
                Console().print(f"[{colours[state]}]{state:4}[/]  {what:10}", end="  ", highlight=False)
                Console().print(said, markup=False, highlight=False, soft_wrap=True)
        return 1 if bad else 0


def python() -> Iterator[Line]:
    fits = (3, 10) <= sys.version_info < (3, 14)
    yield ("Python", "ok" if fits else "bad",
           f"{platform.python_version()} at {sys.executable}" + ("" if fits else ": 3.10 to 3.13 are tested"))


def ours() -> Iterator[Line]:
    """Whose `common` and `data` a project would import, and who else has packages of these names."""
    for name in ("common", "data"):
        place = Path(importlib.util.find_spec(name).origin)
        mine = paths.ROOT in place.resolve().parents
        others = [entry for entry in sys.path[1:] if Path(entry).resolve() != paths.ROOT and
                  any(Path(entry, name + end).exists() for end in ("", ".py"))]
        also = f"; another lies in {', '.join(others)} and is not used" if others else ""
        yield name, "ok" if mine else "bad", f"{place}{also}" + ("" if mine else ": not ours, nothing works")


def torch() -> Iterator[Line]:
    """torch, and a kernel launched on the best device there is; in a process of its own, which may crash."""
    code = ("import torch, json; from common.device import pick, machine; "
            "print(json.dumps([torch.__version__, str(pick()), machine()]))")
    done = subprocess.run([sys.executable, "-c", code], env=launch.environment(), capture_output=True,
                          encoding="utf-8", errors="replace")
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield "torch", "bad", f"{why}: no project runs without it"
        return
    import json
    version, device, machine = json.loads(done.stdout.strip().splitlines()[-1])
    yield "torch", "ok", version
    yield "device", "ok", f"{device}: a kernel ran on it"
    memory = (machine["ram_bytes"] or 0) / 1e9
    yield "machine", "ok", (f"{machine['gpu'] or 'no GPU'}, {machine['cpu']} ({machine['cpu_capability']}), "
                            f"{machine['cores']} cores, {memory:.0f} GB, {machine['os']}")
    for warning in (line for line in done.stderr.splitlines() if "Warning" in line):
        yield "device", "note", warning.strip()
    if device == "cpu":
        yield "GPU", "note", "none that works: gpu presets and GPU figures are out of reach, all else runs"


def malloc() -> Iterator[Line]:
    if platform.system() != "Linux":
        yield "malloc", "ok", "nothing to set on this system"
        return
    seen = launch.environment()
    values = {name: seen[name] for name in seen if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"}
    by = "set by thirty" if launch.MALLOC.items() <= values.items() else "yours, left alone"
    yield "malloc", "ok", f"{' '.join(f'{k}={v}' for k, v in values.items())} ({by})"


def triton() -> Iterator[Line]:
    if importlib.util.find_spec("triton") is None:
        yield "Triton", "note", f"absent: {extras.COSTS['kernels']}"
    else:
        yield "Triton", "ok", "present; without a CUDA device its kernels run in the interpreter, slowly"


def compiler() -> Iterator[Line]:
    found = next((path for name in ("cc", "gcc", "clang", "cl") if (path := shutil.which(name))), None)
    if found:
        yield "compiler", "ok", found
    else:
        yield "compiler", "note", "none: torch.compile on the CPU and the C++ operators are out of reach"


def disk() -> Iterator[Line]:
    place = next(folder for folder in (paths.home(), *paths.home().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    yield "disk", "ok" if free > 5 else "note", f"{free:.0f} GB free for {paths.home()}" + (
        "" if free > 5 else ": the larger corpora and models will not fit")
    if not os.access(place, os.W_OK):
        yield "disk", "bad", f"{place} cannot be written: set THIRTY_HOME to a folder that can"


def data() -> Iterator[Line]:
    given = os.environ.get("THIRTY_DATA")
    if given and Path(given).is_dir():
        yield "data", "ok", f"THIRTY_DATA: {given}, {len(list(Path(given).iterdir()))} files"
    elif given:
        yield "data", "bad", f"THIRTY_DATA names no folder: {given}; corpora in it are not found"
    else:
        yield "data", "note", "THIRTY_DATA is not set: corpora are downloaded, or python-manual stands in"
    for folder in (paths.cache(), paths.models(), paths.runs()):
        number = len(list(folder.iterdir())) if folder.is_dir() else 0
        yield "data", "ok", f"{folder}: {number or 'nothing yet'}"


def optional() -> Iterator[Line]:
    for extra in extras.SIZES:
        lacking = extras.missing(extra)
        yield ("extra", "ok", f"{extra}: complete") if not lacking else (
            "extra", "note", f"{extra}: {extras.COSTS[extra]}; missing {', '.join(lacking)}, about "
                             f"{extras.SIZES[extra]} MB: {extras.command(extra)}")
