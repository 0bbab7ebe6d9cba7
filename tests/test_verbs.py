"""The command line from outside: what it says, its exit codes, and that it stays light."""
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import checks, doctor, extras, launch, progress, projects
from common.cli.__main__ import VERBS, main, verbs
from common.cli.cards import TIERS, cards, find

ROOT = Path(__file__).parents[1]


@pytest.fixture
def thirty(tmp_path, monkeypatch, capsys):
    """Run one command line here, with a `my` of its own; gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("THIRTY_MY", str(tmp_path / "my"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("THIRTY_LAUNCHER", raising=False)

    def run(*argv):
        try:
            code = main(list(argv))
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()
    return run


@pytest.fixture
def started(monkeypatch):
    """What would have been started, with each start a success."""
    calls = []

    def start(module, args, **settings):
        calls.append((module, list(args), settings))
        return 0
    for place in (projects, checks):
        monkeypatch.setattr(place, "start", start)
    return calls


def test_help_lists_every_verb_that_is_here(thirty):
    code, said, _ = thirty("--help")
    assert code == 0 and all(f"  {verb} " in said for verb in verbs())
    assert set(verbs()) <= set(VERBS) and {"list", "run", "test", "smoke", "data", "doctor"} <= set(verbs())


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_explains_itself(thirty, started, verb):
    code, said, _ = thirty(verb, "--help")
    assert code == 0 and (verb in said or started == [("data.corpora", ["--help"], {})])


@pytest.mark.parametrize("argv, says", [
    (["lst"], "no verb 'lst': did you mean list?"),
    (["list", "--teir", "expert"], "did you mean --tier?"),
    (["list", "--tier", "wizard"], "invalid choice 'wizard'"),
    (["run", "kv_cahce"], "no project 'kv_cahce': did you mean kv_cache?"),
    (["run", "31"], "they are 1 to 30"),
    (["test", "phase05_quantisation"], "did you mean phase05_quantization?"),
    (["smoke", "kv_cahce"], "did you mean kv_cache?"),
])
def test_a_mistake_is_one_line_and_exit_code_2(thirty, argv, says):
    code, said, error = thirty(*argv)
    assert (code, said, error.count("\n")) == (2, "", 1) and says in error


def test_light_from_any_folder_even_beside_a_foreign_common(tmp_path):
    """No torch for what only lists; the root is first on the path, whatever lies in the current folder."""
    (tmp_path / "common.py").write_text("raise SystemExit('foreign')")
    code = ("import runpy, sys; sys.argv = ['x', 'list']\n"
            f"try: runpy.run_path({str(ROOT / 'common' / 'cli')!r}, run_name='__main__')\n"
            "except SystemExit as end: print('torch' in sys.modules, end.code)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8",
                          env={**os.environ, "THIRTY_MY": str(tmp_path), "PYTHONUTF8": "1"})
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr
    assert all(card.technique in done.stdout for card in cards())


def test_list_by_tier_with_what_was_done(thirty):
    card = next(card for card in cards() if card.built)
    progress.ran(card, f"{card.scripts[0]} smoke", 2)
    assert " ran  " not in thirty("list")[1]
    progress.ran(card, card.scripts[0], 71.2)
    said = thirty("list", "--tier", card.tier)[1]
    row = next(line for line in said.splitlines() if card.technique in line)
    assert " ran  " in row and " 71s " in row
    assert not any(other.technique in said for other in cards() if other.tier != card.tier)
    progress.checked(card)
    row = next(line for line in thirty("list")[1].splitlines() if card.technique in line)
    assert " written " in row and " 71s " in row
    assert all(sum(card.tier == tier for card in cards()) >= 2 for tier in TIERS)


def test_alone_it_names_the_next_thing(thirty):
    built = [card for card in cards() if card.built]
    assert f"./thirty run {built[0].number}" in thirty()[1]
    progress.ran(built[0], built[0].scripts[0], 60)
    assert f"./thirty start {built[0].number}" in thirty()[1]
    for card in built:
        progress.ran(card, card.scripts[0], 60)
        progress.checked(card)
    assert "All that is built is done" in thirty()[1]


def test_progress_that_cannot_be_read_is_one_line(thirty, tmp_path):
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "progress.json").write_text("[1")
    code, _, error = thirty("list")
    assert code == 2 and error.count("\n") == 1 and "progress.json" in error


@pytest.mark.parametrize("argv, script, rest, noted", [
    (["1"], "train", [], "train"), (["01", "smoke"], "train", ["smoke"], "train smoke"),
    (["minimal_gpt", "--steps", "3"], "train", ["--steps", "3"], "train"),
    (["1", "generate", "cpu", "--seed", "1"], "generate", ["cpu", "--seed", "1"], "generate cpu"),
])
def test_run_finds_the_script_and_passes_the_rest(thirty, started, argv, script, rest, noted):
    assert thirty("run", *argv)[0] == 0
    assert started == [(f"phase01_foundation.project01_minimal_gpt.{script}", rest, {})]
    assert list(progress.read()["project01_minimal_gpt"]["ran"]) == [noted]


def test_what_is_not_built_says_so(thirty, started):
    nothing = [card for card in cards() if not card.scripts and not (card.folder / "tests").exists()]
    if not nothing:
        pytest.skip("every project is built")
    unbuilt = nothing[-1]
    code, _, error = thirty("run", str(unbuilt.number))
    assert code == 2 and error.count("\n") == 1 and "not built yet" in error
    for verb in ("test", "smoke"):
        code, said, _ = thirty(verb, str(unbuilt.number))
        assert code == 0 and "not built yet" in said
    assert started == []


def test_test_chooses_folders_and_markers(thirty, started, monkeypatch):
    monkeypatch.setattr(extras, "missing", lambda extra: [])
    for argv in (["test"], ["test", "1"], ["test", "phase1", "--slow"], ["test", "common", "--gpu"]):
        assert thirty(*argv)[0] == 0
    alone, one, slow, gpu = [args[2:] for _, args, _ in started]
    assert alone == [] and one == [str(find("1").folder)]
    assert slow[:2] == ["-m", ""] and str(find("1").folder) in slow
    assert gpu == ["-m", "gpu", str(ROOT / "common")]
    assert all(module == "pytest" and settings["cwd"] == ROOT for module, _, settings in started)


def test_smoke_reports_each_script_and_fails_with_the_first(thirty, monkeypatch):
    def start(module, args, *, output, timeout):
        assert args[0] == "smoke" and args[1:4:2] == ["--device", "--out"] and timeout > 0
        output.write(b"one\nlast words\n")
        return 3 if module.endswith("generate") else 0
    monkeypatch.setattr(checks, "start", start)
    code, said, _ = thirty("smoke", "1", "--device", "cpu")
    rows = {line.split()[1]: line.split()[3] for line in said.splitlines() if line.startswith(" project01")}
    assert code == 1 and rows["train"] == "pass" and rows["generate"] == "FAIL"
    assert "last words" in said


def test_smoke_stops_at_ctrl_c(thirty, monkeypatch):
    monkeypatch.setattr(checks, "start", lambda *_, **__: 130)
    assert thirty("smoke", "1")[::2] == (130, "stopped by Ctrl-C\n")


@pytest.mark.parametrize("argv", [["list"], ["run", "1"]])
def test_a_python_without_the_core_is_one_line(thirty, started, monkeypatch, argv):
    monkeypatch.setattr(extras, "missing", lambda extra: ["tyro", "torch"])
    monkeypatch.setitem(sys.modules, "tyro", None)
    code, _, error = thirty(*argv)
    assert (code, error.count("\n")) == (2, 1) and "lacks tyro, torch" in error and started == []


# Extras

@pytest.fixture
def lacking(monkeypatch):
    monkeypatch.setattr(extras, "missing", lambda extra: ["trl"])
    for name in ("THIRTY_LAUNCHER", "THIRTY_NO_INSTALL"):
        monkeypatch.delenv(name, raising=False)


def test_missing_finds_what_cannot_be_imported(monkeypatch):
    monkeypatch.setattr(extras, "requirements", lambda extra: ["rich", "no-such-package>=1", "import-linter"])
    monkeypatch.setattr(extras, "MODULES", {"import-linter": "no_such_linter"})
    assert extras.missing("dev") == ["no-such-package", "import-linter"]


def test_need_names_what_it_lacks_and_installs_nothing(lacking, monkeypatch, capsys):
    monkeypatch.setattr(extras.subprocess, "run", lambda *_, **__: pytest.fail("something was installed"))
    extras.need(["finetune"], "project 4")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "finetune" in said and "140 MB" in said and "-m pip install -c" in said
    monkeypatch.setenv("THIRTY_LAUNCHER", "thirty")
    monkeypatch.setenv("THIRTY_NO_INSTALL", "1")
    extras.need(["finetune"], "project 4")
    assert "./thirty --install finetune" in capsys.readouterr().out


def test_need_installs_through_the_launcher_after_one_line(lacking, monkeypatch, capsys):
    monkeypatch.setenv("THIRTY_LAUNCHER", "/somewhere/thirty")
    for code, lines in ((0, 1), (1, 2)):
        calls = []
        done = subprocess.CompletedProcess([], code)
        monkeypatch.setattr(extras.subprocess, "run",
                            lambda command, check, calls=calls, done=done: calls.append(command) or done)
        extras.need(["finetune"], "project 4")
        assert calls == [["bash", "/somewhere/thirty", "--install", "finetune"]]
        assert capsys.readouterr().out.count("\n") == lines


def test_an_unknown_extra_is_one_line():
    command = [sys.executable, str(ROOT / "common/cli/extras.py"), "hubb"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1) and "hub, " in done.stderr


# Doctor

def lines(look):
    return [" ".join(line) for line in look()]


def test_doctor_looks_at_everything_and_says_what_lacks_cost(tmp_path, monkeypatch):
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path / "home"))
    assert lines(doctor.python)[0].startswith("Python ok")
    assert [line.split()[1] for line in lines(doctor.ours)] == ["ok", "ok"]
    assert str(tmp_path / "home") in lines(doctor.disk)[0]
    assert len(lines(doctor.optional)) == len(extras.SIZES) and len(lines(doctor.compiler)) == 1
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "note" in lines(doctor.compiler)[0] and "torch.compile" in lines(doctor.compiler)[0]
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert extras.COSTS["kernels"] in lines(doctor.triton)[0]


@pytest.mark.parametrize("given, state", [(None, "note"), ("here", "ok"), ("nowhere", "bad")])
def test_doctor_on_the_data(tmp_path, monkeypatch, given, state):
    monkeypatch.delenv("THIRTY_DATA", raising=False)
    (tmp_path / "here").mkdir()
    if given:
        monkeypatch.setenv("THIRTY_DATA", str(tmp_path / given))
    assert lines(doctor.data)[0].split()[1] == state


def test_doctor_finds_a_foreign_common_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "common").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert f"another lies in {tmp_path} and is not used" in lines(doctor.ours)[0]


def test_doctor_says_who_set_malloc(monkeypatch):
    monkeypatch.setattr(launch.platform, "system", lambda: "Linux")
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert "set by thirty" in lines(doctor.malloc)[0]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert "MALLOC_ARENA_MAX=2 (yours, left alone)" in lines(doctor.malloc)[0]


def test_doctor_launches_a_kernel_and_survives_a_torch_that_does_not_work(monkeypatch):
    assert [line.split()[:2] for line in lines(doctor.torch)][:2] == [["torch", "ok"], ["device", "ok"]]
    broken = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: libcudart is missing\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: broken)
    assert lines(doctor.torch) == ["torch bad ImportError: libcudart is missing: no project runs without it"]


class Item:
    """What pytest hands to conftest.py: a test with one marker."""
    def __init__(self, marker):
        self.marker, self.added = marker, []

    def get_closest_marker(self, name):
        return name == self.marker

    def add_marker(self, mark):
        self.added.append(mark.kwargs["reason"])


@pytest.mark.parametrize("given, reasons", [(None, ["THIRTY_DATA is not set"]), ("here", []),
                                            ("nowhere", ["THIRTY_DATA names no folder: {}"])])
def test_what_needs_data_is_skipped_with_a_reason(tmp_path, monkeypatch, given, reasons):
    conftest = runpy.run_path(str(ROOT / "conftest.py"))
    monkeypatch.delenv("THIRTY_DATA", raising=False)
    (tmp_path / "here").mkdir()
    if given:
        monkeypatch.setenv("THIRTY_DATA", str(tmp_path / given))
    items = [Item("needs_data"), Item("slow")]
    conftest["pytest_collection_modifyitems"](items)
    assert [item.added for item in items] == [[reason.format(tmp_path / "nowhere") for reason in reasons], []]


def test_what_needs_a_gpu_is_skipped_with_a_reason(monkeypatch):
    import torch
    conftest = runpy.run_path(str(ROOT / "conftest.py"))
    for there, reasons in ((False, ["no CUDA device"]), (True, [])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        items = [Item("gpu"), Item("slow")]
        conftest["pytest_collection_modifyitems"](items)
        assert [item.added for item in items] == [reasons, []]
