"""The frame of every bench.py, the verbs that start it, and one figure on its whole way to a README."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.benchmark import Comparison, Side, WrongAnswer, values
from common.cli import bench as frame
from common.cli.bench import Bench, bench, break_even, finish
from common.errors import UserError
from common.results import Figure, read

ROOT = Path(__file__).parents[1]
RUN = Comparison({"slow": Side("slow", (2.0, 2.2, 2.4, 2.6) * 4), "fast": Side("fast", (1.0,) * 16)}, 0.0)

TOY = '''
"""Is adding once faster than adding twice?"""
import torch

from common.cli.bench import Bench, bench


def main(b: Bench) -> None:
    x = torch.ones(b.pick(smoke=64, quick=128, full=256), 256)
    run = b.compare({"twice": lambda: (x @ x.T, x @ x.T)[1], "once": lambda: x @ x.T}, check=1e-4, budget=0.2)
    b.claim("once", "Once is faster than twice", headline=True, unit="s", better="lower", goal=(">", 0),
            measured=run.figures("once"), prediction=0.5)
    if not b.rival("nanoGPT"):
        b.not_run("rival", "Faster than nanoGPT", unit="s", better="lower", goal=("<", 1), why="not here")


def profiled(b: Bench):
    x = torch.ones(64, 64)
    return lambda: x @ x


if __name__ == "__main__":
    bench(main, profiled)
'''


@pytest.fixture
def b(tmp_path, monkeypatch):
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path / "home"))
    return Bench(tmp_path / "project01_toy", "quick", torch.device("cpu"))


def claimed(b, goal, **more):
    asked = {"unit": "s", "better": "lower", "measured": RUN.figures("fast"), "headline": True, **more}
    return b.claim("speed", "Faster", goal=goal, **asked)


# --- claims -------------------------------------------------------------------------------------------------

def test_the_verdict_is_worked_out(b):
    low, high = RUN.figures("fast")["interval"]
    assert low < RUN.figures("fast")["ratio"] < high
    assert claimed(b, ("<=", high)).verdict == "met"
    assert claimed(b, ("<=", low / 2)).verdict == "not met"
    between = claimed(b, ("<=", RUN.figures("fast")["ratio"]), why="Because.")
    assert between.verdict == "conditional"
    assert between.why == "part of the interval misses the goal. Because."


def test_a_condition_is_named(b):
    found = claimed(b, ("<=", 0.9), only="from 700 tokens on")
    assert found.verdict == "conditional" and found.why == "only from 700 tokens on."
    assert claimed(b, ("<=", 0.1), only="from 700 tokens on").verdict == "not met", "it saves nothing"


def test_a_claim_says_how_it_was_measured(b):
    found = claimed(b, ("<=", 0.9), settings={"tokens": 64})
    assert found.settings == {"tokens": 64, "rounds": 8.0, "processors used by others": 0.0}
    assert found.goal == {"op": "<=", "value": 0.9} and set(found.samples) == {"slow", "fast"}


def test_a_claim_without_a_baseline_judges_our_figure(b):
    found = claimed(b, ("<=", 2), unit="nats", measured=values("ours", [1.9]))
    assert found.verdict == "met" and found.judged == 1.9


def test_what_could_not_be_run_says_so(b):
    found = b.not_run("rival", "Faster", unit="s", better="lower", goal=("<", 1), why="nanoGPT is not here",
                      ours=Figure("ours", 2.0))
    assert found.verdict is None and found.why == "not run: nanoGPT is not here" and b.claims == [found]


def test_rivals_and_libraries_are_recorded(tmp_path):
    (tmp_path / "nanoGPT").mkdir()
    b = Bench(tmp_path, "quick", torch.device("cpu"), rivals_in=tmp_path)
    assert b.rival("nanoGPT") == tmp_path / "nanoGPT" and b.rival("minbpe") is None
    assert Bench(tmp_path, "quick", torch.device("cpu")).rival("nanoGPT") is None
    assert b.library("numpy") and not b.library("no-such-package")
    assert b.rivals == {"nanoGPT": "unknown", "minbpe": "not run", "numpy": b.rivals["numpy"],
                        "no-such-package": "not run"}
    assert b.rivals["numpy"][0].isdigit()


def test_compare_takes_the_budget_of_its_mode_and_refuses_wrong_answers(b, capsys):
    with pytest.raises(WrongAnswer):
        b.compare({"one": lambda: 1, "two": lambda: 2}, check=0.0)
    assert "measuring one, two" in capsys.readouterr().out
    seen = {}
    b.mode = "smoke"
    run = b.compare({"one": lambda: 1, "two": lambda: 1}, budget=0.0,
                    check=lambda one, two: seen.update(one=one, two=two) or True)
    assert run.rounds == 0.5 and seen == {"one": 1, "two": 1}


def test_sizes_change_with_the_mode(b):
    assert b.pick(smoke=1, quick=2, full=3) == 2


def test_ceilings_are_measured_once_a_run(b, monkeypatch):
    calls = []
    monkeypatch.setattr("common.profiling.ceilings", lambda device, seconds: calls.append(device) or 1)
    assert b.ceilings == b.ceilings == 1 and calls == [torch.device("cpu")]


def test_a_sweep_finds_where_it_breaks_even(b):
    def at(size):
        return Comparison({"base": Side("base", (float(size),)), "ours": Side("ours", (10.0,))})
    found = b.sweep("length", [5, 20, 40], at, "ours")
    assert found["over"] == "length" and [row["at"] for row in found["rows"]] == [5, 20, 40]
    assert [row["ratio"] for row in found["rows"]] == pytest.approx([0.5, 2.0, 4.0])
    assert found["break_even"] == pytest.approx(5 * 4 ** (1 / 3))


def test_break_even():
    assert break_even([(1, 2.0), (10, 3.0)]) is None and break_even([]) is None
    assert break_even([(10, 2.0), (1000, 0.0)]) == pytest.approx(100), "half way, on a logarithmic axis"


# --- where results go ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode, place", [("smoke", None), ("quick", "home/runs/project01_toy/bench"),
                                         ("full", "project01_toy/results")])
def test_only_a_full_bench_is_committed(b, tmp_path, capsys, mode, place):
    b.mode = mode
    claimed(b, ("<=", 0.9))
    finish(b)
    written = [path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("cpu.json")]
    assert written == ([place] if place else [])
    if place:
        found = read(tmp_path / place / "cpu.json")
        assert found.mode == mode and found.headline.id == "speed"
        assert found.versions["torch"] == torch.__version__
        assert found.machine["threads"] == torch.get_num_threads() and "malloc" in found.machine


def test_a_learners_figures_are_not_committed(b, tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "ROOT", tmp_path)
    (tmp_path / ".shadow.json").write_text("{}")
    b.mode = "full"
    claimed(b, ("<=", 0.9))
    finish(b)
    assert [p.parent for p in tmp_path.rglob("cpu.json")] == [tmp_path / "home/runs/project01_toy/mine"]


def test_the_table_shows_every_claim_as_it_is_worded(b, capsys):
    claimed(b, ("<=", 0.9), why="[red]not markup[/red]", headline=False)
    b.not_run("rival", "Faster than [nanoGPT]", unit="s", better="lower", goal=("<", 1), why="away",
              headline=True)
    b.started -= 1000
    finish(b)
    out = capsys.readouterr().out
    for words in ("speed: Faster", "[red]not markup[/red]", "Faster than [nanoGPT]", "not run: away", "met",
                  "a quick bench may take 120 s"):
        assert words in out, out


# --- the command line of a bench.py -------------------------------------------------------------------------

def test_a_users_mistake_is_one_line(capsys):
    def wrong(b):
        raise UserError("no data: fetch it")
    for argv, said in (([], "error: no data: fetch it"), (["--profile"], "profile"), (["fulll"], "error"),
                       (["--ful"], "--full")):
        with pytest.raises(SystemExit) as end:
            bench(wrong, None, argv)
        err = capsys.readouterr().err.strip()
        assert end.value.code == 2 and said in err and "\n" not in err, err


def test_ctrl_c_writes_nothing(capsys):
    def stopped(b):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as end:
        bench(stopped, None, [])
    assert end.value.code == 130 and "nothing was written" in capsys.readouterr().err


def test_profile_writes_the_table_and_the_trace(b, tmp_path, capsys):
    x = torch.ones(64, 64)
    frame.profile_of(b, lambda b: lambda: x @ x)
    found = json.loads((b.project / "results" / "profile_cpu.json").read_text())
    assert {"device", "machine", "versions", "commit", "date", "operations", "memory"} <= set(found)
    assert found["operations"][0]["name"] == "aten::mm" and "aten::mm" in capsys.readouterr().out
    assert list((tmp_path / "home/runs/project01_toy/profile").glob("cpu.trace.json"))


# --- the whole way ------------------------------------------------------------------------------------------

def test_from_the_command_line_to_the_readme(tmp_path):
    """`bench 1 --full`, then `report`, as a user types them, in a repository of one project."""
    shutil.copytree(ROOT / "common", tmp_path / "common",
                    ignore=shutil.ignore_patterns("tests", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    toy = tmp_path / "phase01_foundation" / "project01_toy"
    toy.mkdir(parents=True)
    for folder in (toy, toy.parent):
        (folder / "__init__.py").write_text('"""A toy."""\n')
    card = json.loads(next(ROOT.glob("phase01_*/project01_*/project.json")).read_text(encoding="utf-8"))
    (toy / "project.json").write_text(json.dumps(card))
    (toy / "bench.py").write_text(TOY)
    (toy / "README.md").write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    env = {**os.environ, "THIRTY_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    env.pop("THIRTY_RIVALS", None)

    def thirty(*args):
        command = [sys.executable, str(tmp_path / "common" / "cli"), *args]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, encoding="utf-8")
        return done.returncode, done.stdout + done.stderr

    code, said = thirty("bench", "1", "--full")
    assert code == 0 and "once: Once is faster than twice" in said and "USDT" not in said, said
    found = read(toy / "results" / "cpu.json")
    assert found.mode == "full" and found.rivals == {"nanoGPT": "not run"}
    assert found.headline.verdict == "met"
    assert thirty("report", "--check")[0] == 1
    code, said = thirty("report")
    assert code == 0, said
    assert "| Once is faster than twice | twice:" in (toy / "README.md").read_text(encoding="utf-8")
    assert thirty("report", "--check")[0] == 0
