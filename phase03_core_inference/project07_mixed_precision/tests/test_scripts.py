"""The scripts as a user runs them."""

import json

import pytest

from common.trial import refused, run
from phase03_core_inference.project07_mixed_precision import _lab, train


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place of its own for what a script writes."""
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_smoke_train(home):
    """Every precision trains, from one start; memory is where the arithmetic says; a picture."""
    run(train, "smoke", "--out", home / "out")
    found = json.loads((home / "out" / "result.json").read_text())["metrics"]
    assert {name.split(":")[0] for name in found} == set(_lab.PRECISIONS)
    assert abs(found["bf16: apart"]) < 0.02 and abs(found["bf16-masters: apart"]) < 0.02
    weights = found["fp32: weights"]
    assert found["bf16: weights"] == found["fp8: weights"] == weights == found["fp32: gradients"]
    assert found["bf16-masters: weights"] == 1.5 * weights  # 4 bytes and 2
    assert found["bf16-masters: gradients"] == weights  # as the optimiser finds them: in float32
    assert found["fp32: states"] >= 2 * weights
    assert found["bf16-masters: activations"] < 0.8 * found["fp32: activations"]
    assert (home / "out" / "precisions.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_of_a_user(capsys):
    assert "no precision is called fp4" in refused(capsys, train, "smoke", "--precisions", "fp4")
    assert "multiple of 8" in refused(capsys, train, "smoke", "--d_model", "12")
    assert "at least 1" in refused(capsys, train, "smoke", "--steps", "0")
