"""The scripts as a user runs them, and the trace they replay."""

import json

import pytest

from common.cli.bench import bench
from common.trial import model_folder, refused, run
from phase04_advanced_inference.project10_prompt_caching import bench as bench_script
from phase04_advanced_inference.project10_prompt_caching import generate, prefix_cache
from phase04_advanced_inference.project10_prompt_caching._trace import (
    conversations,
    hit_rate,
    optimal_rate,
    paths_of,
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place of its own for runs, and a tiny model."""
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return model_folder(tmp_path / "m")


def test_smoke_generate(home, tmp_path, capsys):
    """All answers agree, the later prompts reuse the shared beginning, a picture is drawn."""
    run(generate, "smoke", "--model", "m", "--out", "here")
    found = json.loads((tmp_path / "here" / "result.json").read_text())["metrics"]
    assert found["agree"] == 1 and found["reused"] > 0.4
    assert "the answers agree" in capsys.readouterr().out
    assert (tmp_path / "here" / "first_token.png").read_bytes().startswith(b"\x89PNG")


def test_is_on_in_the_script(home, monkeypatch):
    """A walk that raises makes the script fail: it really uses what the learner wrote."""

    def broken(self, ids):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(prefix_cache.PrefixIndex, "walk", broken)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        run(generate, "smoke", "--model", "m")


def test_smoke_bench(capsys):
    """Every claim is made, and the sides agree."""
    bench(bench_script.main, argv=["smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    for claim in ("ttft", "logits", "miss", "repeats", "hits", "recall", "calls"):
        assert f"\n{claim}: " in said, claim


def test_bad_input(home, capsys):
    assert "none of them empty" in refused(capsys, generate, "smoke", "--questions", "")
    assert "at least 1" in refused(capsys, generate, "smoke", "--max-tokens", 0)
    assert "budget of 2" in refused(capsys, generate, "smoke", "--model", "m", "--budget", 2)


def test_no_cache_beats_the_future():
    """On a trace the index hits at most as often as Belady's rule, and as often where all fits."""
    turns = conversations(25, seed=1)
    assert turns == conversations(25, seed=1) != conversations(25, seed=2)
    total = sum(map(len, turns))
    for budget in (800, 2000, 5000):
        assert 0 < hit_rate(turns, budget, 16) <= optimal_rate(turns, budget, 16) < 1
    assert hit_rate(turns, total, 16) == optimal_rate(turns, total, 16)


def test_paths_are_told_apart():
    """The same block behind another beginning is another one."""
    assert paths_of([[1, 2, 3, 4], [1, 2, 5, 6, 7], [3, 4]], 2) == [[0, 1], [0, 2], [3]]
