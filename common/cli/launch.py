"""Start a module in a process of its own, with one root first on the path and the right environment."""
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from common.cli import paths

# glibc gives large buffers back to the kernel after every step and faults them in again in the next. With
# these it keeps them: a step of BF16 training went from 230,000 page faults to none, and became 1.3 to 1.6
# times as fast on two cores. The launcher `thirty` sets the same.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}

# `python -m` would put the current folder first on the path, where a foreign `common` could lie.
BOOT = ("import runpy, sys; sys.path[:] = [sys.argv[1], *(p for p in sys.path if p)]; "
        "del sys.argv[1]; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)")


def malloc(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The malloc settings to add: none off Linux, none where the user has set any of their own."""
    tuned = "glibc.malloc" in environ.get("GLIBC_TUNABLES", "")
    own = tuned or any(name.startswith("MALLOC_") for name in environ)
    return {} if own or platform.system() != "Linux" else dict(MALLOC)


def environment(root: Path = paths.ROOT, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child sees: `root` first on the path, the same models and learner's files, malloc settings."""
    inherited = os.environ.get("PYTHONPATH")
    return {
        "PYTHONUTF8": "1", **os.environ, **malloc(),
        "PYTHONPATH": os.pathsep.join([str(root), *([inherited] if inherited else [])]),
        "THIRTY_HOME": str(paths.home()), "THIRTY_MY": str(paths.my()),
        **(extra or {}),
    }


def start(module: str, args: Sequence[str], *, root: Path = paths.ROOT, env: Mapping[str, str] | None = None,
          cwd: Path | None = None, output: IO | None = None, timeout: float | None = None) -> int:
    """Run `python -m module args` with `root` first on the path; the exit code, 128 + n for signal n.

    output: a file for both streams instead of the screen. timeout: seconds, after which the child is killed
    and the code is 124. Ctrl-C reaches the child from the terminal, SIGTERM is handed on, its end is awaited.
    """
    command = [sys.executable, "-c", BOOT, str(root), module, *args]
    child = subprocess.Popen(command, env=environment(root, env), cwd=cwd, stdout=output,
                             stderr=output and subprocess.STDOUT)
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        while True:
            try:
                code = child.wait(timeout)
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:
                continue
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                return 124
    finally:
        signal.signal(signal.SIGTERM, before)
