"""Result files: each type refuses what is not one, and what is written is read back as it was."""
import json
import subprocess
from dataclasses import asdict, replace

import pytest

from common.errors import UserError
from common.results import Claim, Figure, Result, band, bands, commit, dumps, from_dict, judge, read, slug

FASTER = Claim(id="speed", claim="Twice as fast", unit="tok/s", better="higher",
               goal={"op": ">=", "value": 1.5},
               baseline=Figure("plain", 100.0, cv=0.02, peak_memory=4096, counts={"FLOPs": 8e9}),
               ours=Figure("cache", 200.0, cv=0.2, unsteady=True), ratio=2.0, interval=(1.9, 2.1), bound=3.0,
               prediction=2.2, verdict="met", samples={"plain": [99.0, 101.0]}, headline=True)
LOSS = Claim(id="loss", claim="Loss below 2", unit="nats", better="lower", goal={"op": "<=", "value": 2.0},
             ours=Figure("ours", 1.9), verdict="met")
ABSENT = Claim(id="rival", claim="As fast as nanoGPT", unit="s", better="lower", ours=None,
               goal={"op": "<=", "value": 1.0}, why="not run: nanoGPT is not in $THIRTY_RIVALS")
RESULT = Result(device="cpu", machine={"cpu": "Xeon", "cores": 2}, versions={"torch": "2.13.0"}, commit="abc",
                date="2026-01-01", mode="full", rivals={"nanoGPT": "not run"}, claims=(FASTER, LOSS, ABSENT))


def test_keys_are_those_of_the_agreement():
    """What other projects and tools read."""
    found = json.loads(dumps(asdict(RESULT)))
    assert list(found) == ["device", "machine", "versions", "commit", "date", "mode", "rivals", "claims"]
    assert set(found["claims"][0]) == {
        "id", "headline", "claim", "unit", "better", "goal", "baseline", "ours", "samples", "ratio",
        "interval", "bound", "prediction", "verdict", "why", "settings"}
    assert set(found["claims"][0]["goal"]) == {"op", "value"}


def test_written_and_read_back(tmp_path):
    path = tmp_path / "cpu.json"
    path.write_text(dumps(asdict(RESULT)), encoding="utf-8")
    assert read(path) == RESULT and RESULT.headline is FASTER
    assert "[ 99.0, 101.0 ]" in path.read_text(), "numbers in a row stand on one line"


def test_the_judged_figure():
    assert FASTER.judged == 2.0 and LOSS.judged == 1.9 and ABSENT.judged is None


@pytest.mark.parametrize("figure, interval, goal, verdict", [
    (2.0, (1.9, 2.1), (">=", 1.5), "met"), (2.0, None, (">=", 1.5), "met"),
    (1.4, (1.3, 1.6), (">=", 1.5), "not met"),
    (1.55, (1.4, 1.7), (">=", 1.5), "conditional"), (0.6, (0.5, 0.66), ("<=", 0.67), "met"),
    (0.6, (0.5, 0.68), ("<=", 0.67), "conditional"), (0.7, None, ("<=", 0.67), "not met"),
    (3, None, ("==", 3), "met"), (3, None, (">", 3), "not met"), (3, None, ("<", 3), "not met")])
def test_judge(figure, interval, goal, verdict):
    assert judge(figure, interval, {"op": goal[0], "value": goal[1]}) == verdict


@pytest.mark.parametrize("change, wrong", [
    ({"verdict": "not met"}, "the figures say 'met'"),
    ({"ratio": 1.2, "interval": (1.1, 1.3)}, "the figures say 'not met'"),
    ({"interval": (1.4, 2.1)}, "the figures say 'conditional'"),
    ({"verdict": "conditional"}, "the figures say 'met'"),  # a condition is named
    ({"verdict": "perhaps"}, "the figures say"),
    ({"interval": (2.1, 2.3)}, "does not hold the figure"),
    ({"ratio": None}, "go together"), ({"baseline": None}, "go together"), ({"ours": None}, "our figure"),
    ({"verdict": None}, "says why"), ({"better": "more"}, "better is"), ({"id": "Speed Up"}, "its id"),
    ({"claim": ""}, "a sentence"), ({"unit": ""}, "a unit"), ({"goal": {"op": "~", "value": 1}}, "its goal"),
    ({"goal": {"op": ">="}}, "its goal"), ({"prediction": float("nan")}, "prediction is not a finite number"),
    ({"ours": Figure("cache", float("inf"))}, "ours.value is not a finite number")])
def test_a_claim_that_is_wrong_is_not_made(change, wrong):
    with pytest.raises(ValueError, match=wrong):
        replace(FASTER, **change)


def test_a_condition_makes_a_goal_that_is_met_conditional():
    assert replace(FASTER, verdict="conditional", why="only from 700 tokens on").verdict == "conditional"
    with pytest.raises(ValueError, match="the figures say 'not met'"):
        replace(FASTER, verdict="conditional", why="only on Sundays", goal={"op": ">=", "value": 3})


@pytest.mark.parametrize("change, wrong", [
    ({"mode": "smoke"}, "mode is"), ({"claims": (FASTER, replace(LOSS, id="speed"))}, "share the id 'speed'"),
    ({"claims": (LOSS,)}, "exactly one claim"),
    ({"claims": (FASTER, replace(LOSS, headline=True))}, "not 2")])
def test_a_result_that_is_wrong_is_not_made(change, wrong):
    with pytest.raises(ValueError, match=wrong):
        replace(RESULT, **change)


def test_a_file_that_is_wrong_is_one_line(tmp_path):
    good = json.loads(dumps(asdict(RESULT)))
    typed = json.loads(dumps(asdict(RESULT)))
    typed["claims"][0]["verdict"] = "not met"
    short, long = json.loads(dumps(asdict(RESULT))), {**good, "note": "a key too many"}
    del short["claims"][1]["why"]
    for text, wrong in ((json.dumps(typed), "the figures say"), (json.dumps(short), "has no why"),
                        (json.dumps(long), "note"), ("{", "Expecting"), ("[]", "no result file")):
        path = tmp_path / "cpu.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=wrong) as error:
            read(path)
        assert "\n" not in str(error.value) and "./thirty bench" in str(error.value)
    assert from_dict(good) == RESULT


def test_nan_is_never_written():
    with pytest.raises(ValueError):
        dumps({"value": float("nan")})


@pytest.mark.parametrize("kind, gpu, name", [
    ("cpu", "", "cpu"), ("mps", "", "mps"), ("cuda", "NVIDIA H100 80GB HBM3", "h100"),
    ("cuda", "NVIDIA H200", "h200"), ("cuda", "NVIDIA A100-SXM4-80GB", "a100"), ("cuda", "Tesla T4", "t4"),
    ("cuda", "NVIDIA GeForce RTX 4090", "rtx4090"), ("cuda", "NVIDIA GeForce GTX 1080 Ti", "gtx1080"),
    ("cuda", "", "cuda"), ("cpu", "NVIDIA H200", "cpu")])
def test_slug(kind, gpu, name):
    assert slug(kind, gpu) == name


def test_commit_says_when_files_differ(tmp_path):
    def git(*args):
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *own, "-C", tmp_path, *args], check=True, capture_output=True)
    assert commit(tmp_path) == "unknown"
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = commit(tmp_path)
    assert len(clean) == 12 and int(clean, 16)
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == f"{clean}+changes"
    (tmp_path / "inside").mkdir()
    assert commit(tmp_path / "inside") == "unknown", "a folder inside another checkout is not that checkout"


def test_band_is_four_deviations_or_one_per_cent():
    wide = band([1.0, 1.1, 1.2])
    assert (wide["mean"], wide["sd"]) == (pytest.approx(1.1), pytest.approx(0.1))
    assert (wide["low"], wide["high"]) == (pytest.approx(0.7), pytest.approx(1.5))
    assert band([-2.0] * 3) == {"mean": -2.0, "sd": 0.0, "low": -2.02, "high": -1.98}
    with pytest.raises(UserError, match="three seeds"):
        band([1.0, 1.0])


def test_what_the_machine_decides_has_no_band():
    runs = {seed: {"val_loss": 1.0 + seed, "tokens_per_s": 900.0, "mfu": 0.1} for seed in range(3)}
    assert list(bands(runs)) == ["val_loss"]


def test_bands_take_numbers_and_say_where_from():
    runs = {seed: {"val_loss": 1.9 + seed / 100, "text": "To be"} for seed in (3, 4, 5)}
    found = bands(runs, machine="Xeon", commit="abc")
    assert set(found) == {"val_loss"}
    assert set(found["val_loss"]) == {"mean", "sd", "low", "high", "seeds", "machine", "commit"}
    assert found["val_loss"]["seeds"] == [3, 4, 5] and found["val_loss"]["mean"] == pytest.approx(1.94)
    with pytest.raises(UserError, match="different metrics"):
        bands({0: {"a": 1.0}, 1: {"b": 1.0}, 2: {"a": 1.0}})
    with pytest.raises(UserError, match="different metrics, or none"):
        bands({0: {}, 1: {}, 2: {}})
