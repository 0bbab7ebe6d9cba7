"""The scripts and the lesson: every preset in small, every command, the snippet, the proofs."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from common.cli import cards
from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import model_folder, refused, run
from phase04_advanced_inference.project13_paged_attention import bench, explore, generate, paged_attention

LESSON = Path(paged_attention.__file__).parent / "README.md"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place of its own for runs, and a tiny model."""
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "m", max_seq_len=128)
    return tmp_path


def metrics(folder):
    return json.loads((folder / "result.json").read_text())["metrics"]


def test_smoke_generate(home, capsys):
    """Both ways' texts, whether they agree, speed, how many at a time, a picture."""
    run(generate, "smoke", "--model", "m", "--out", "here")
    said = capsys.readouterr().out
    for words in ("--- slots,", "--- pages,", "8 of 8 texts agree", "tokens/s", "texts at a time", "MB"):
        assert words in said
    found = metrics(home / "here")
    assert found["agree"] == 1 and found["texts, pages"] > found["texts, slots"]
    assert (home / "here" / "pages.png").read_bytes().startswith(b"\x89PNG")


def test_is_on_in_the_script(home, monkeypatch):
    """Attention in place that raises makes the script fail: it really uses what the learner wrote."""

    def broken(q, k, v, view):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(paged_attention, "paged", broken)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        run(generate, "smoke", "--model", "m")


def test_smoke_explore(home):
    """Every experiment in small; what must hold in each holds, and the breaks break."""
    run(explore, "smoke", "--out", "here")
    found = metrics(home / "here")
    assert found["film: left over"] == 0 and found["film: steps"] > 20
    assert found["waste: empty, paged"] < found["waste: empty, reserved"]
    assert found["waste: times as many"] > 1 and found["waste: same"] >= 0.9
    assert found["sizes: empty, 16"] == pytest.approx(found["sizes: formula, 16"], rel=0.3)
    assert found["sharing: 100, blocks of 8"] == pytest.approx(0.198)
    assert found["fork: copies"] == 3 and found["fork: shared"] == 0.75
    assert found["torn: copied"] == 1 > found["torn: not copied"]
    assert found["uncounted: counted"] == 1 > found["uncounted: not counted"]
    assert found["leak: share, then take"] == 0 < found["leak: take, then share"]
    assert found["twice: checked"] == 0 < found["twice: not checked"]
    assert found["moved: all told"] == 1 > found["moved: one told"]
    assert found["mixed: all that comes before"] == 1 > found["mixed: its own tokens"]
    for name in ("film", "waste", "sizes", "sharing", "fork"):
        assert (home / "here" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    assert (home / "here" / "film.gif").read_bytes().startswith(b"GIF")


def test_smoke_bench(home):
    """Every claim is made, the sides agree, and what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert set(claims) == {"waste", "formula", "concurrent", "equal", "sharing", "fork", "decode", "gather",
                           "ragged", "engine", "manager", "gpu-contiguous", "gpu-gather"}  # fmt: skip
    assert claims["sharing"]["verdict"] == claims["fork"]["verdict"] == "met"
    assert claims["gpu-gather"]["verdict"] is None


def test_bad_input(home, capsys):
    assert "no part is called gantt" in refused(capsys, explore, "smoke", "--parts", "gantt")
    assert "at least 1" in refused(capsys, explore, "smoke", "--size", 0)
    assert "too short" in refused(capsys, explore, "smoke", "--context", 16)
    assert "at least 1" in refused(capsys, generate, "smoke", "--slots", 0)
    assert "temperature" in refused(capsys, generate, "smoke", "--temperature", "nan")


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 13 …` and `explore 13 …` of the README names what there is."""
    text = LESSON.read_text(encoding="utf-8")
    commands = re.findall(r"^\./thirty (run|explore) 13([^\n#]*)", text, flags=re.M)
    assert len(commands) >= 4
    for verb, rest in commands:
        script = explore if verb == "explore" else generate
        words = rest.split()
        if words and not words[0].startswith("--"):
            assert words[0] in {*script.PRESETS, *cards.scripts(LESSON.parent)}, words
        fields = {"device", "out", "resume", *(field.name for field in dataclasses.fields(script.Config))}
        for word in words:
            assert not word.startswith("--") or word.removeprefix("--") in fields, word
    for names in re.findall(r"--parts ([a-z]+(?: [a-z]+)*)", text):
        assert set(names.split()) <= set(explore.EXPERIMENTS), names


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    pytest.importorskip("transformers")
    (snippet,) = re.findall(r"```python\n(.*?)```", LESSON.read_text(encoding="utf-8"), flags=re.S)
    exec(compile(snippet, "README.md", "exec"), {})


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
