"""Extras and doctor: what is missing on this machine, what that costs, and how it is installed."""
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.cli import doctor, extras, launch
from common.cli.__main__ import main

ROOT = Path(__file__).parents[1]


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


def test_doctor_prints_a_line_for_each_look_and_fails_with_the_bad_ones(monkeypatch, capsys):
    names = ("python", "ours", "torch", "malloc", "triton", "compiler", "disk", "data", "optional")
    for name in names:
        state = "bad" if name == "torch" else "ok"
        monkeypatch.setattr(doctor, name, lambda line=(name, state, "[said]"): [line])
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(names) and all("[said]" in line for line in said) and said[2].startswith("bad")
    monkeypatch.setattr(doctor, "torch", lambda: [("torch", "note", "slow")])
    assert main(["doctor"]) == 0


def test_doctor_off_linux_and_with_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.platform, "system", lambda: "Darwin")
    assert "nothing to set" in lines(doctor.malloc)[0]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=1e9))
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: False)
    assert [line.split()[1] for line in lines(doctor.disk)] == ["note", "bad"]


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
