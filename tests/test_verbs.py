"""The command line from outside: what it says, its exit codes, and that it stays light."""
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from common import shadow
from common.cli import checks, extras, launch, progress, projects
from common.cli.__main__ import VERBS, main, verbs
from common.cli.cards import TIERS, cards, find
from common.errors import UserError

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
    assert alone[:2] == ["-n", "auto"] and one == [str(find("1").folder)]
    assert slow[:2] == ["-m", ""] and str(find("1").folder) in slow
    assert gpu == ["-m", "gpu", str(ROOT / "common")]
    assert all(module == "pytest" and settings["cwd"] == ROOT for module, _, settings in started)


def test_the_tests_see_to_what_they_compare_with(thirty, started, monkeypatch):
    """Whatever the tested projects name as extras is asked for, so that no comparison is left out unsaid."""
    asked = []
    monkeypatch.setattr(checks, "need", lambda extras, what: asked.append(extras))
    for what in ("data", "1", "5", "all"):
        assert thirty("test", what)[0] == 0
    assert asked[:2] == [["dev"], ["dev"]] and asked[2] == ["dev", "finetune"]
    assert set(asked[3]) == {"dev", *(extra for card in cards() if card.built for extra in card.extras)}


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


@pytest.mark.parametrize("argv", [["list", "--tier", "expert"], ["run", "1"]])
def test_a_python_without_the_core_is_one_line(thirty, started, monkeypatch, argv):
    monkeypatch.setattr(extras, "missing", lambda extra: ["tyro", "torch"])
    monkeypatch.setitem(sys.modules, "tyro", None)
    code, _, error = thirty(*argv)
    assert (code, error.count("\n")) == (2, 1) and "lacks tyro, torch" in error and started == []


# Ends of all kinds

def test_mine_runs_the_same_words_in_the_shadow_tree(thirty, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(launch, "start", lambda module, args, root: calls.append((module, args, root)) or 7)
    monkeypatch.setattr(shadow, "with_mine", lambda my, root: nullcontext((my, root)))
    assert thirty("run", "1", "--mine", "smoke")[0] == 7
    assert calls == [("common.cli", ["run", "1", "smoke"], (tmp_path / "my", ROOT))]


@pytest.mark.parametrize("raised, code, says", [(KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
                                                (UserError("take less"), 2, "error: take less\n")])
def test_a_verb_that_is_stopped_ends_in_one_line(thirty, monkeypatch, raised, code, says):
    def stop(*_):
        raise raised
    monkeypatch.setattr(projects, "run", stop)
    assert thirty("run", "1")[::2] == (code, says)


def test_a_reader_that_went_away_is_no_error(tmp_path):
    """`thirty list | head -1`: the exit is quiet."""
    child = subprocess.Popen([sys.executable, str(ROOT / "common/cli"), "list"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env={**os.environ, "THIRTY_MY": str(tmp_path)})
    child.stdout.close()
    assert b"Traceback" not in child.stderr.read()
    child.stderr.close()
    child.wait()


def test_start_ends_what_takes_too_long_and_keeps_its_output(tmp_path):
    (tmp_path / "slow.py").write_text("import time; print('begun', flush=True); time.sleep(60)")
    with open(tmp_path / "log", "w+b") as log:
        assert launch.start("slow", [], root=tmp_path, output=log, timeout=3.0) == 124
    assert (tmp_path / "log").read_text().strip() == "begun"


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_start_hands_sigterm_on(tmp_path):
    (tmp_path / "server.py").write_text(
        "import os, signal, time\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(9))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)")
    assert launch.start("server", [], root=tmp_path) == 9
