"""constraints.txt: one version of each package for each Python, and versions that fit together."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.cli import extras

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")]


def applies(requirement, python, system):
    """Whether a requirement counts on this Python and system."""
    where = {"python_version": python, "python_full_version": f"{python}.4", "sys_platform": system,
             "platform_system": SYSTEMS[system], "platform_machine": "x86_64"}
    return requirement.marker is None or requirement.marker.evaluate(where)


def test_table_is_what_pyproject_says():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras.table() == {"core": project["dependencies"], **project["optional-dependencies"]}
    assert set(extras.SIZES) == set(extras.COSTS) == set(project["optional-dependencies"])


def test_nested_extras_are_resolved():
    assert extras.requirements("dev")[:3] == extras.requirements("hub")
    everything = [one for extra in extras.table() for one in extras.requirements(extra)]
    assert not [one for one in everything if one.startswith("thirty")]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_has_exactly_one_version(python, system):
    """As pip reads them: each direct dependency pinned once, nothing twice, the range of torch kept."""
    pinned = {}
    for pin in PINS:
        if applies(pin, python, system):
            pinned.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier))
    assert {name: pins for name, pins in pinned.items() if len(pins) != 1 or "==" not in pins[0]} == {}
    wanted = [Requirement(one) for extra in extras.table() for one in extras.requirements(extra)]
    for one in wanted:
        if applies(one, python, system):
            versions = pinned.get(canonicalize_name(one.name))
            assert versions, f"{one.name} has no version for Python {python} on {system}"
            assert one.specifier.contains(versions[0].removeprefix("=="))


def test_torch_and_triton_go_together():
    pins = {pin.name: (str(pin.specifier), str(pin.marker)) for pin in PINS}
    assert pins["torch"] == ("==2.13.0", "None")
    assert pins["triton"] == ("==3.7.1", 'sys_platform == "linux"')


def test_no_place_is_named():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|--(find|index|extra)|@ ", text)


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_versions_fit_together(python, tmp_path):
    """An outside resolver agrees: with these constraints the core and every extra resolve."""
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if not uv:
        pytest.skip("no uv here")
    command = [uv, "pip", "compile", "pyproject.toml", "--all-extras", "-c", "constraints.txt", "-q"]
    done = subprocess.run([*command, "--python-version", python, "-o", str(tmp_path / "resolved.txt")],
                          cwd=ROOT, capture_output=True, text=True, timeout=200)
    if re.search(r"(?i)error sending request|failed to fetch|dns error|connection refused", done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    assert "torch==2.13.0" in (tmp_path / "resolved.txt").read_text(encoding="utf-8")
