"""`./thirty`: what it makes on first use, with uv and without, and how it ends when something is in the way.

Python, pip and uv are stand-ins that write down how they were called, so nothing is installed and no network
is needed. What the real ones do is tried in CI, which starts from a clean clone.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli.launch import MALLOC

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="thirty is a bash script")
TOOLS = ("bash", "cat", "cksum", "cp", "dirname", "env", "grep", "mkdir", "rm", "touch", "uname")

PYTHON = """#!/usr/bin/env bash
# A Python that knows: -c (is the version right?), -m venv, -m pip, extras.py, and the command line.
echo "python $*" >> "$LOG"
case "$*" in
    -c*) exit "${WRONG_VERSION:-0}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *--help) echo "  --dry-run" ;;
    *--dry-run*) echo "${PLAN:-Would install torch-2.13.0+cpu}" ;;
    "-m pip install "*) exit "${PIP_FAILS:-0}" ;;
    *extras.py*) shift; printf 'torch\\nnumpy\\n'
        for it in "$@"; do echo "$it; python_version > '3'"; done ;;
    *common/cli*) echo "LAUNCHER=${THIRTY_LAUNCHER:-}"; env | grep ^MALLOC_; shift; echo "THIRTY $*" ;;
esac
"""
UV = """#!/usr/bin/env bash
echo "uv $*" >> "$LOG"
case "$*" in
    venv*) for last; do :; done; mkdir -p "$last/bin" && cp "$STAND_IN" "$last/bin/python" ;;
    *--torch-backend=auto*) exit "${NO_TORCH_INDEX:-0}" ;;
    *--dry-run*) echo "${PLAN:- + torch==2.13.0+cpu}" ;;
esac
"""


@pytest.fixture
def house(tmp_path):
    """A clone with the launcher: `house(*args, **env)` runs it, `house.log()` is what that called."""
    root, bin = tmp_path / "a clone", tmp_path / "bin"
    (root / "common" / "cli").mkdir(parents=True)
    for name in ("thirty", "constraints.txt", "pyproject.toml", "common/cli/extras.py"):
        shutil.copy2(ROOT / name, root / name)
    bin.mkdir()
    for tool in TOOLS:
        (bin / tool).symlink_to(shutil.which(tool))

    def write(name, text):
        (bin / name).write_text(text, encoding="utf-8")
        (bin / name).chmod(0o755)

    def run(*args, uv=False, **env):
        (bin / "uv").unlink(missing_ok=True)
        if uv:
            write("uv", UV)
        known = {"PATH": bin, "LOG": tmp_path / "log", "STAND_IN": bin / "python3", "HOME": tmp_path}
        return subprocess.run([root / "thirty", *args], capture_output=True, encoding="utf-8", cwd=tmp_path,
                              stdin=subprocess.DEVNULL, timeout=60, env={**known, **env})

    def log():
        text = (tmp_path / "log").read_text(encoding="utf-8")
        (tmp_path / "log").write_text("", encoding="utf-8")
        return text.splitlines()
    write("python3", PYTHON)
    run.log, run.root, run.env = log, root, root / ".venv"
    return run


def installs(lines):
    return [line for line in lines if " install " in line and not {"--dry-run", "--help"} & set(line.split())]


@pytest.mark.parametrize("uv", [True, False])
def test_first_use_installs_once_and_every_use_passes_the_words_on(house, uv):
    first = house("list", "--tier", "two words", uv=uv)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "THIRTY list --tier two words"
    assert f"LAUNCHER={house.root}/thirty" in first.stdout and "making .venv" in first.stderr
    done = installs(house.log())
    assert len(done) == 1 and done[0].startswith("uv pip" if uv else "python -m pip")
    assert f"-c {house.root}/constraints.txt" in done[0] and done[0].endswith("torch numpy")
    assert ("--torch-backend=auto" in done[0]) == uv
    assert (house.env / "thirty.installed").exists() and not (house.env / "thirty.unfinished").exists()
    again = house("list", uv=uv)
    assert again.stderr == "" and not installs(house.log())


def test_other_constraints_bring_the_environment_up_to_date(house):
    house("list")
    (house.env / "kept").touch()
    (house.root / "constraints.txt").write_text("numpy==1\n")
    house.log()
    assert house("list").returncode == 0
    assert len(installs(house.log())) == 1 and (house.env / "kept").exists()


def test_without_its_index_torch_comes_from_where_the_user_says(house):
    places = {"PIP_FIND_LINKS": "/wheels /more", "UV_FIND_LINKS": "/third",
              "PIP_EXTRA_INDEX_URL": "file:///i"}
    done = house("list", uv=True, NO_TORCH_INDEX="1", **places)
    assert done.returncode == 0 and "own index cannot be reached" in done.stderr
    install = installs(house.log())[0]
    assert "--torch-backend" not in install
    links = "--find-links /wheels --find-links /more --find-links /third --extra-index-url file:///i"
    assert links in install
    shutil.rmtree(house.env)
    house("list", UV_FIND_LINKS="/third")
    assert "--find-links /third" in installs(house.log())[0]


@pytest.mark.parametrize("uv", [True, False])
def test_the_cuda_build_is_announced_before_it_is_fetched(house, uv):
    plan = {"PLAN": "Would install nvidia-cublas-13.1 torch-2.13.0", "NO_TORCH_INDEX": "1"}
    said = house("list", uv=uv, PIP_FAILS="1", **plan).stderr
    assert "2.1 GB to fetch" in said and "PIP_EXTRA_INDEX_URL" in said and "PIP_FIND_LINKS" in said


def test_a_machine_with_a_gpu_is_not_told_about_the_cpu_build(house, tmp_path):
    (tmp_path / "bin" / "nvidia-smi").symlink_to(shutil.which("true"))
    said = house("list", PLAN="Would install nvidia-cublas-13.1 torch-2.13.0").stderr
    assert "2.1 GB to fetch" in said and "CPU" not in said


def test_an_interrupted_installation_starts_again_cleanly(house):
    failed = house("list", PIP_FAILS="1")
    assert failed.returncode == 2 and "run it again" in failed.stderr.splitlines()[-1]
    (house.env / "half").touch()
    again = house("list")
    assert again.returncode == 0 and "interrupted; starting it again" in again.stderr
    assert not (house.env / "half").exists() and (house.env / "thirty.installed").exists()


def test_an_environment_that_someone_else_made_is_kept(house):
    house("list")
    (house.env / "thirty.installed").unlink()
    (house.env / "kept").touch()
    assert house("list").returncode == 0 and (house.env / "kept").exists()
    assert len(installs(house.log())) == 2


def test_nothing_is_installed_where_that_is_forbidden(house):
    refused = house("list", THIRTY_NO_INSTALL="1")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "python -m common.cli" in refused.stderr
    house("list")
    (house.root / "constraints.txt").write_text("numpy==1\n")
    house.log()
    going_on = house("list", THIRTY_NO_INSTALL="1")
    assert going_on.returncode == 0 and "going on" in going_on.stderr and not installs(house.log())


def test_the_active_environment_is_used_when_asked_and_named_when_not(house, tmp_path):
    active = tmp_path / "active"
    (active / "bin").mkdir(parents=True)
    shutil.copy2(tmp_path / "bin" / "python3", active / "bin" / "python")
    beside = house("list", VIRTUAL_ENV=str(active))
    assert str(active) in beside.stderr and "THIRTY_HERE=1" in beside.stderr and house.env.exists()
    shutil.rmtree(house.env)
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        assert house("list", THIRTY_HERE="1", **{variable: str(active)}).returncode == 0
    assert (active / "thirty.installed").exists() and not house.env.exists()
    none = house("list", THIRTY_HERE="1")
    assert none.returncode == 2 and "no virtual or conda environment is active" in none.stderr


def test_a_python_of_the_wrong_version_is_one_line(house):
    refused = house("list", WRONG_VERSION="1")
    assert refused.returncode == 2 and "3.10 to 3.13" in refused.stderr.splitlines()[-1]


def test_extras_are_installed_with_the_same_versions(house):
    house("list")
    house.log()
    assert house("--install", "finetune", "hub").returncode == 0
    done = installs(house.log())
    assert len(done) == 1 and "constraints.txt" in done[0]
    assert done[0].endswith("torch numpy finetune; python_version > '3' hub; python_version > '3'")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is on Linux")
def test_malloc_keeps_large_buffers_unless_the_user_set_it(house):
    said = house("list").stdout
    assert dict(line.split("=") for line in said.splitlines() if line.startswith("MALLOC_")) == MALLOC
    assert "MALLOC_MMAP" not in house("list", MALLOC_ARENA_MAX="2").stdout
    assert "MALLOC_MMAP" not in house("list", GLIBC_TUNABLES="glibc.malloc.trim_threshold=1").stdout


def test_no_place_is_written_into_the_launcher():
    text = (ROOT / "thirty").read_text(encoding="utf-8")
    assert not re.search(r"https?://|pytorch\.org|pypi|/opt/|/home/", text)


def test_what_ci_runs_is_the_test_command(tmp_path):
    """`.ci/run` in a clone beside `shared/data`, with a launcher that says how it was called."""
    clone = tmp_path / "clone"
    (clone / ".ci").mkdir(parents=True)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    shutil.copy2(ROOT / ".ci" / "run", clone / ".ci" / "run")
    (clone / "thirty").write_text('#!/usr/bin/env bash\necho "$* DATA=${THIRTY_DATA:-}"; cat; exit 3\n')
    (clone / "thirty").chmod(0o755)

    def run():
        return subprocess.run([str(clone / ".ci" / "run")], env={"PATH": os.environ["PATH"]}, cwd="/",
                              capture_output=True, encoding="utf-8")
    done = run()
    assert (done.returncode, done.stdout) == (3, f"test DATA={tmp_path}/shared/data\n")
    shutil.rmtree(tmp_path / "shared")
    assert run().stdout == "test DATA=\n"
