"""The command line's ground: cards, processes of their own, and the frame of every script."""
import json
import os
import runpy
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.cli import cards, folders, launch, paths
from common.cli.cards import TIERS, find, phase
from common.errors import UserError

ROOT = Path(__file__).parents[1]

TOY = '''
"""A toy that adds up."""
import sys
from dataclasses import dataclass
from pathlib import Path

from common.cli.script import script
from common.errors import UserError


@dataclass(frozen=True)
class Config:
    steps: int = 3
    """How many numbers to add."""
    seed: int = 0
    """First number."""
    fail: str = ""
    """How to fail."""

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


PRESETS = {"smoke": Config(steps=1), "cpu": Config()}


def main(config, run):
    if config.fail == "user":
        raise UserError("the toy is out of numbers: take fewer")
    if config.fail == "ctrl-c":
        raise KeyboardInterrupt
    if config.fail == "full":
        raise OSError(28, "No space left on device", "toy.bin")
    if config.fail == "half":
        sys.exit(1)
    run.say(f"[bold]{run.name} {run.script} {run.preset} {config.steps} {run.device} {Path.cwd()}")
    run.finish({"total": float(sum(range(config.steps)))}, corpus="python-manual")


if __name__ == "__main__":
    script(main, PRESETS)
'''


# The cards

def test_thirty_cards_agree_with_their_folders():
    everything = cards.cards()
    assert [card.number for card in everything] == list(range(1, max(31, len(everything) + 1)))
    for card in everything:
        assert card.folder.name == f"project{card.number:02d}_{card.technique}"
        assert card.week == int(card.phase[5:7])
        assert card.tier in TIERS
        assert all(earlier < card.number for earlier in card.builds_on)
        assert set(card.minutes) == {"smoke", "cpu"}
        assert 0 < card.minutes["smoke"] <= card.minutes["cpu"] <= 10
        assert len(card.claim) < 160 and len(card.insight) < 106
        assert card.seam in ("none", "contract", "function", "surgery", "objective", "engine")
    assert {card.tier for card in everything} == set(TIERS)


def test_card_extras_are_those_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    known = {line.split("=")[0].strip() for line in text.split("[tool")[0].splitlines() if "=" in line}
    assert {extra for card in cards.cards() for extra in card.extras} <= known


@pytest.mark.parametrize("text", ["8", "08", "kv_cache", "kv-cache", "project08_kv_cache", "project8",
                                  "phase03_core_inference/project08_kv_cache/",
                                  "phase03_core_inference\\project08_kv_cache"])
def test_a_project_has_many_names(text):
    assert find(text).number == 8


@pytest.mark.parametrize("text", ["phase3", "phase03", "phase03_core_inference", "phase03_core_inference/"])
def test_a_phase_has_many_names(text):
    assert [card.number for card in phase(text)] == [7, 8, 9]


@pytest.mark.parametrize("text, says", [
    ("kv_cahce", "did you mean kv_cache?"), ("31", "1 to 30"), ("0", "1 to 30"),
    ("project09_flash_atention", "did you mean project09_flash_attention?"),
])
def test_an_unknown_project_names_the_nearest(text, says):
    with pytest.raises(UserError, match="no project") as caught:
        find(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_phase_names_the_nearest():
    with pytest.raises(UserError, match="did you mean phase05_quantization"):
        phase("phase05_quantisation")
    with pytest.raises(UserError, match="no phase 'phase11'"):
        phase("phase11")


def test_a_broken_card_is_one_line(tmp_path):
    folder = tmp_path / "phase01_x" / "project01_y"
    folder.mkdir(parents=True)
    (folder / "project.json").write_text("{")
    with pytest.raises(UserError, match="not a project card"):
        cards.cards(tmp_path)
    (folder / "project.json").write_text('{"number": 1, "builds_on": [], "extras": []}')
    with pytest.raises(UserError, match="title"):
        cards.cards(tmp_path)


# A process of its own

def test_start_puts_the_root_first_and_passes_the_exit_code(tmp_path, monkeypatch):
    """Even where the current folder holds a foreign `common`."""
    (tmp_path / "common.py").write_text("raise SystemExit('foreign')")
    package = tmp_path / "root" / "pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "mod.py").write_text(textwrap.dedent("""
        import json, os, sys
        from pathlib import Path
        seen = [sys.argv, sys.path[0], __name__, __spec__.name, dict(os.environ)]
        Path(sys.argv[1]).write_text(json.dumps(seen))
        sys.exit(7)
    """))
    monkeypatch.chdir(tmp_path)
    said, root = tmp_path / "said.json", tmp_path / "root"
    code = launch.start("pack.mod", [str(said), "--x"], root=root, env={"EXTRA": "1"})
    argv, first, name, spec, env = json.loads(said.read_text())
    assert (code, first, name, spec, argv[2:]) == (7, str(tmp_path / "root"), "__main__", "pack.mod", ["--x"])
    assert env["EXTRA"] == "1" and env["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "root")
    assert env["THIRTY_MY"] == str(paths.my()) and env["THIRTY_HOME"] == str(paths.home())


@pytest.mark.skipif(os.name == "nt", reason="signals have no exit code on Windows")
def test_start_reports_a_signal_as_128_plus_n(tmp_path):
    (tmp_path / "dies.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert launch.start("dies", [], root=tmp_path) == 137


def test_malloc_settings_are_the_users_where_there_are_any(monkeypatch):
    monkeypatch.setattr(launch.platform, "system", lambda: "Linux")
    assert launch.malloc({}) == launch.MALLOC
    assert launch.malloc({"MALLOC_ARENA_MAX": "1"}) == {}
    assert launch.malloc({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}) == {}
    monkeypatch.setattr(launch.platform, "system", lambda: "Darwin")
    assert launch.malloc({}) == {}


# The frame of a script

@pytest.fixture
def toy(tmp_path, monkeypatch, capsys):
    """Run the toy as project 1's train.py would be run, but here; gives its exit code and what it printed."""
    package = tmp_path / "project01_toy"
    package.mkdir()
    (package / "train.py").write_text(TOY, encoding="utf-8")
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")

    def run(*args, **env):
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["train.py", *args])
            code = 0
            try:
                runpy.run_path(str(package / "train.py"), run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
        said = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)
    run.runs = tmp_path / "home" / "runs" / "project01_toy"
    run.project = package
    return run


def test_a_run_writes_its_result_and_makes_a_new_folder_each_time(toy):
    first = toy("smoke", "--device", "cpu")
    assert first.returncode == 0, first.stderr
    assert "[bold]project01_toy train smoke 1 cpu" in first.stdout
    assert "no expected band for preset smoke yet" in first.stdout
    result = json.loads((toy.runs / "smoke" / "result.json").read_text())
    assert result["metrics"] == {"total": 0.0} and result["config"]["steps"] == 1
    assert (result["preset"], result["script"], result["overridden"]) == ("smoke", "train", [])
    assert result["corpus"] == "python-manual" and result["seconds"] >= 0
    assert set(result["versions"]) >= {"python", "torch"}
    assert result["machine"]["malloc"] == {name: os.environ[name] for name in os.environ if "MALLOC_" in name}
    assert toy("smoke", "--device", "cpu").returncode == 0
    assert sorted(f.name for f in toy.runs.iterdir()) == ["smoke", "smoke-2"]


def test_an_unfinished_run_is_resumed_and_a_finished_one_refused(toy, tmp_path):
    assert toy("cpu", "--fail", "half").returncode == 1
    again = toy("cpu", "--fail", "half")
    assert "resuming the unfinished run" in again.stdout and [f.name for f in toy.runs.iterdir()] == ["cpu"]
    out = str(tmp_path / "out")
    assert toy("cpu", "--out", out).returncode == 0
    for args in (["cpu", "--out", out], ["cpu", "--out", str(toy.project)], ["smoke", "--resume"]):
        refused = toy(*args)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert "holds a finished run" in toy("cpu", "--out", out).stderr
    assert "nothing to resume" in toy("smoke", "--resume").stderr


@pytest.mark.parametrize("args, code, says", [
    (["smok"], 2, "no preset 'smok': did you mean smoke?"),
    (["smoke", "--stepz", "3"], 2, "no field '--stepz': did you mean --steps?"),
    (["smoke", "--steps", "three"], 2, "--steps: invalid literal for int() with base 10: 'three'"),
    (["smoke", "--steps", "0"], 2, "steps must be at least 1"),
    (["smoke", "--device", "tpu"], 2, "tpu"),
    (["smoke", "--fail", "user"], 2, "the toy is out of numbers: take fewer"),
    (["smoke", "--fail", "full"], 2, "the disk is full (toy.bin)"),
    (["smoke", "--fail", "ctrl-c"], 130, "stopped by Ctrl-C"),
])
def test_a_mistake_is_one_line(toy, args, code, says):
    ended = toy(*args)
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1), ended.stderr
    assert says in ended.stderr


def test_help_shows_presets_and_fields(toy):
    said = toy("--help").stdout
    for part in ("thirty run 1 train", "smoke: steps 1", "cpu: steps 3", "--steps INT",
                 "How many numbers to add.", "--device", "--out", "--resume"):
        assert part in said


def test_ranks_need_a_named_folder_and_only_the_first_speaks(toy, tmp_path):
    assert "add --out" in toy("smoke", WORLD_SIZE="2", RANK="1").stderr
    second = toy("smoke", "--out", str(tmp_path / "ranks"), WORLD_SIZE="2", RANK="1")
    assert (second.returncode, second.stdout) == (0, "") and not (tmp_path / "ranks").exists()
    first = {"WORLD_SIZE": "2", "RANK": "0"}
    assert toy("cpu", "--fail", "half", "--out", str(tmp_path / "ranks"), **first).returncode == 1
    again = toy("cpu", "--fail", "half", "--out", str(tmp_path / "ranks"), **first)
    assert again.returncode == 2 and "add --resume" in again.stderr
    first["TORCHELASTIC_RESTART_COUNT"] = "1"  # torchrun's own second start needs no --resume
    anew = toy("cpu", "--fail", "half", "--out", str(tmp_path / "ranks"), **first)
    assert anew.returncode == 1 and "resuming" in anew.stdout
    del first["TORCHELASTIC_RESTART_COUNT"]
    assert toy("cpu", "--fail", "half", "--out", str(tmp_path / "ranks"), "--resume", **first).returncode == 1


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path):
    identity = {"script": "train", "preset": "cpu", "config": {"steps": 3}}
    first = folders.choose(tmp_path / "cpu", identity)
    second = folders.choose(tmp_path / "cpu", identity)
    assert (first.folder.name, second.folder.name, second.resumed) == ("cpu", "cpu-2", False)
    with pytest.raises(UserError, match="in use"):
        folders.choose(tmp_path / "cpu", identity, tmp_path / "cpu")
    first.lock.close()
    again = folders.choose(tmp_path / "cpu", identity, resume=True)
    assert again.folder == first.folder and again.resumed
    with pytest.raises(UserError, match="other settings"):
        folders.choose(tmp_path / "cpu", {**identity, "config": {"steps": 4}}, tmp_path / "cpu")
    again.lock.close()
    second.lock.close()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for name, says in (("file", "holds no run"), ("broken", "other settings")):
        with pytest.raises(UserError, match=says):
            folders.choose(tmp_path / "cpu", {}, tmp_path / name)
