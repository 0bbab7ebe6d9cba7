"""The extras of pyproject.toml: what is in each, what is missing here, and how it gets here.

Also run by path, before anything is installed: `python common/cli/extras.py dev` prints what to install for
the core and the extra dev, one requirement a line. So nothing of ours is imported here.
"""
import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"import-linter": "importlinter"}  # where the import name is not the package's with dashes lowered

# About what there is to fetch, in MB, beside the core on Linux; and what goes without it.
SIZES = {"hub": 95, "finetune": 140, "kernels": 200, "export": 220, "serve": 7, "ui": 60, "search": 1,
         "dev": 110}
COSTS = {
    "hub": "no models or data sets by name from the hub",
    "finetune": "no comparison with trl and peft, no bitsandbytes",
    "kernels": "no Triton kernels, the PyTorch versions run instead",
    "export": "no ONNX, GGUF, OpenVINO or JAX",
    "serve": "no HTTP server",
    "ui": "no chat page, no PDF reading",
    "search": "no comparison with bm25s",
    "dev": "no tests",
}


def table() -> dict[str, list[str]]:
    """Requirements by extra; the core under "core". Reads the few lines of pyproject.toml that hold them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    core = re.search(r"^dependencies = (\[.*?^\])", text, flags=re.M | re.S)
    extras = re.search(r"^\[project\.optional-dependencies\]\n(.*?)\n\[", text, flags=re.M | re.S)
    lines = (line.partition("=") for line in extras[1].splitlines() if line)
    return {"core": ast.literal_eval(core[1]), **{name.strip(): ast.literal_eval(value.strip())
                                                  for name, _, value in lines}}


def requirements(extra: str) -> list[str]:
    """What one extra asks for, with `thirty[hub]` replaced by what hub asks for."""
    known = table()
    nested = (re.fullmatch(r"thirty\[(\w+)\]", requirement) for requirement in known[extra])
    return [one for inner, requirement in zip(nested, known[extra], strict=True)
            for one in (requirements(inner[1]) if inner else [requirement])]


def missing(extra: str) -> list[str]:
    """Names of the extra's packages that cannot be imported here, out of those meant for this system."""
    names = [re.match(r"[\w.-]+", requirement)[0] for requirement in requirements(extra)
             if "sys_platform == 'linux'" not in requirement or sys.platform == "linux"]
    return [name for name in names
            if importlib.util.find_spec(MODULES.get(name, name.replace("-", "_"))) is None]


def need(extras, what: str) -> None:
    """See to `extras` before `what` runs: installed by the launcher after one line, or named in that line.

    Nothing is installed with THIRTY_NO_INSTALL=1, nor under `python -m common.cli`. Then, or when it fails,
    the command goes on: it may do without, and says so itself where it cannot.
    """
    launcher = os.environ.get("THIRTY_LAUNCHER")
    forbidden = os.environ.get("THIRTY_NO_INSTALL", "0") not in ("", "0")
    for extra in extras:
        lacking = missing(extra)
        if not lacking:
            continue
        line = f"for {what}: extra {extra} ({', '.join(lacking)}), about {SIZES[extra]} MB, is not here yet"
        if launcher and not forbidden:
            print(f"{line}; installing it, once", flush=True)
            if subprocess.run(["bash", launcher, "--install", extra], check=False).returncode == 0:
                importlib.invalidate_caches()
                continue
            print(f"{extra} could not be installed; going on without: {COSTS[extra]}", flush=True)
        else:
            print(f"{line}; going on without: {COSTS[extra]}. To install it: {command(extra)}", flush=True)


def command(extra: str) -> str:
    """What to type to install an extra here."""
    if os.environ.get("THIRTY_LAUNCHER"):
        return f"./thirty --install {extra}"
    return f"python -m pip install -c constraints.txt {' '.join(map(repr, requirements(extra)))}"


if __name__ == "__main__":
    if unknown := [name for name in sys.argv[1:] if name not in table()]:
        sys.exit(f"error: no extra {unknown[0]!r}: there are {', '.join(SIZES)}")
    print("\n".join(requirement for extra in ["core", *sys.argv[1:]] for requirement in requirements(extra)))
