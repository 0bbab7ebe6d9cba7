"""The scripts and the lesson: every preset in small, every command, the snippet, the proofs."""

import json
from pathlib import Path

import pytest

from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase04_advanced_inference.project12_dynamic_batching import bench, engine, explore, generate, slots

LESSON = Path(engine.__file__).parent / "README.md"


@pytest.fixture
def home(home):
    """A place of its own for runs, and a tiny model with large weights, to whom a wrong key matters."""
    model_folder(home / "m", loud=8, max_seq_len=128)
    return home


def test_smoke_generate(home, capsys):
    """Both modes' texts, whether they agree, speed, steps, memory, a picture."""
    run(generate, "smoke", "--model", "m", "--out", "here")
    said = capsys.readouterr().out
    for words in ("--- static,", "--- continuous,", "8 of 8 texts agree", "tokens/s", "MB"):
        assert words in said
    found = metrics(home / "here")
    assert found["agree"] == 1 and found["steps, continuous"] < found["steps, static"]
    assert (home / "here" / "slots.png").read_bytes().startswith(b"\x89PNG")


def test_is_on_in_the_script(home):
    """A slot cache that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(slots.SlotCache.update):
        run(generate, "smoke", "--model", "m")


def test_smoke_explore(home, capsys):
    """Every experiment in small; what must hold in each holds, and the breaks break."""
    run(explore, "smoke", "--model", "m", "--out", "here")
    found, said = metrics(home / "here"), capsys.readouterr().out
    assert found["gantt: continuous"] < found["gantt: static"]
    assert found["fairness: guest, a queue for each"] < found["fairness: guest, one queue"]
    assert found["memory: unchanged"] >= 0.9 and found["memory: read again, least room"] > 0
    assert found["blocking: large, in order"] < found["blocking: large, whoever fits"]
    assert found["blocking: small, in order"] > found["blocking: small, whoever fits"]
    assert found["starvation: a time when due"] < 200 == found["starvation: priority alone"]
    assert found["zero: served"] < 2 and "none can run" in said
    assert found["overcommit: asked"] <= 1 < found["overcommit: never asked"]
    assert found["padding: its own last token"] == 1 > found["padding: zeros at position 0"]
    for name in ("gantt", "fairness", "memory", "waiting", "load", "chunks", "host", "blocking"):
        assert (home / "here" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_smoke_bench(home):
    """Every claim is made, the sides agree, and what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert set(claims) == {"static", "schedule", "transformers", "equal", "scheduling", "dynamic", "waiting",
                           "h200"}  # fmt: skip
    assert claims["equal"]["verdict"] == "met" and claims["h200"]["verdict"] is None
    assert any(key.startswith("dynamic, ttft p95") for key in claims["dynamic"]["settings"])


def test_bad_input(home, capsys):
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "slots must be at least 6" in refused(capsys, explore, "smoke", "--slots", 2)
    assert "too short" in refused(capsys, explore, "smoke", "--context", 16)
    assert "at least 1" in refused(capsys, generate, "smoke", "--requests", 0)
    assert "below slots" in refused(capsys, generate, "smoke", "--max_step_tokens", 2)
    assert "temperature" in refused(capsys, generate, "smoke", "--temperature", "nan")


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 12 …` and `explore 12 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    pytest.importorskip("transformers")
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
