"""The verdict on a number: a run's metrics against the expected band."""
import json

import pytest

from common.cli.expected import verdict

BAND = {"cpu": {"val_loss": {"mean": 1.9, "sd": 0.01, "low": 1.88, "high": 1.92, "corpus": "shakespeare"}}}


OUTSIDE = "expected 1.90 ± 0.02 for preset cpu: outside the band"


@pytest.mark.parametrize("value, overridden, corpus, says", [
    (1.9, [], "shakespeare", ["val loss 1.90, expected 1.90 ± 0.02 for preset cpu"]),
    (1.923, [], None, [f"val loss 1.923, {OUTSIDE}", "usual causes"]),
    (float("nan"), [], None, [f"val loss nan, {OUTSIDE}", "usual causes"]),
    (1.9, ["steps"], None, ["steps changed: the expected band of preset cpu does not apply"]),
    (2.1, [], "python-manual", ["val loss 2.10; 1.90 ± 0.02 is expected on shakespeare, not on python"]),
])
def test_verdict(tmp_path, value, overridden, corpus, says):
    path = tmp_path / "expected.json"
    path.write_text(json.dumps(BAND))
    lines = verdict(path, "cpu", {"val_loss": value}, overridden=overridden, corpus=corpus)
    assert all(line.startswith(said) for line, said in zip(lines, says, strict=True))
    assert verdict(path, "gpu", {"val_loss": 1.0}, overridden=[]) == ["no expected band for preset gpu yet"]
