"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
from pathlib import Path

import pytest
import torch

from common import hub
from common.cli import restores
from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase06_compression.project17_pruning import (
    _gpu,
    _lab,
    _quality,
    _speed,
    bench,
    explore,
    magnitude,
    storage,
    structured,
    train,
)

LESSON = Path(train.__file__).parent / "README.md"


@pytest.fixture(autouse=True)
def base(home):
    """As models/base a tiny model, to which a missing weight matters."""
    return model_folder(home / "models" / "base", n_layer=2, d_ff=64, loud=4)


def test_smoke_train(home, capsys):
    """Structured: smaller shapes, the four perplexities, a folder that comes back, a picture."""
    run(train, "smoke", "--out", home / "out", "--save")
    said, found = capsys.readouterr().out, metrics(home / "out")
    for words in ("perplexity, whole", "pruned, learnt on", "saved:", "weights,", "picture:"):
        assert words in said
    names = ("whole", "pruned", "pruned, learnt on", "whole, learnt on")
    assert len({found[f"perplexity, {name}"] for name in names}) == 4
    assert found["weights, pruned"] < found["weights, whole"]
    for folder in (home / "out" / "model", home / "models" / "pruned"):
        model = hub.load(folder, restore=restores.table())
        assert structured.shapes(model)[0] == {"groups": 1, "neurons": 48} and len(model.blocks) == 2
    assert json.loads((home / "models" / "pruned" / "card.json").read_text())["made_by"] == _lab.NAME
    assert (home / "out" / "pruning.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("method", "more", "share"), [("wanda", (), 0.5), ("gradual", (), 0.5),
                                                       ("sparsegpt", ("--pattern", "2:4"), 0.5)])
def test_smoke_train_with_zeros(home, method, more, share):
    """The zeros outlive the training; the file is smaller; the masks fit this model and no other."""
    run(train, "smoke", "--method", method, "--sparsity", share, *more, "--asked", 0, "--out", home / "out")
    found, folder = metrics(home / "out"), home / "out" / "model"
    made = _lab.load(folder)
    assert magnitude.sparsity_of(made) == pytest.approx(share, abs=0.01)
    kept = sum(t.nbytes for name, t in hub.own(storage.store(made)).items()
               if name.endswith((".values", ".packed")))  # fmt: skip
    n = 2 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 64)
    assert kept / (4 * n) == pytest.approx(0.53125, abs=0.01) and found["bytes"] == _lab.file_bytes(folder)
    masks = _lab.read_masks(home / "out" / "masks.safetensors", hub.load(home / "models" / "base"))
    assert len(masks) == 14


def test_masks_of_an_earlier_run(home, capsys):
    """Taken instead of chosen ones: the same zeros; refused for another model."""
    run(train, "smoke", "--method", "wanda", "--sparsity", 0.6, "--steps", 0, "--out", home / "a")
    file = home / "a" / "masks.safetensors"
    run(train, "smoke", "--method", "magnitude", "--masks", file, "--steps", 0, "--out", home / "b")
    a, b = (metrics(home / name)["perplexity, pruned"] for name in "ab")
    assert a == b
    other = model_folder(home / "other", n_layer=2, d_ff=64, loud=5)
    assert "found for another model" in refused(capsys, train, "smoke", "--model", other, "--method",
                                                "magnitude", "--masks", file)  # fmt: skip


def test_is_on_in_the_script(home):
    """A choice that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(structured.energy):
        run(train, "smoke", "--asked", "0", "--out", home / "a")
    with unplugged(magnitude.largest):
        run(train, "smoke", "--asked", "0", "--method", "wanda", "--out", home / "b")


def test_smoke_explore(home):
    """Every experiment in small; what must hold holds, and the breaks break."""
    run(explore, "smoke", "--out", home / "out")
    found = metrics(home / "out")
    pictures = {path.stem for path in (home / "out").glob("*.png")}
    assert pictures == set(explore.EXPERIMENTS) - {"text", "damaged"}
    assert found["damaged: refused"] == found["damaged: tried"] == 8
    assert found["masks: Wanda, emptiest row"] == 0.5 == found["masks: magnitude, as magnitude"] / 2
    assert found["masks: magnitude, emptiest row"] < 0.5 < found["masks: Wanda, as magnitude"] < 1
    assert 0 <= found["heads: free"] <= 1 and -1 <= found["heads: rank correlation"] <= 1
    assert found["speed: bitmask, made whole, 60%"] > 0
    assert found["units: wanda, sizes differ by e^1.0"] < found["units: magnitude, sizes differ by e^1.0"]


def test_smoke_bench(home):
    """Every claim is made; what must hold is met; what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    for name in ("reference", "size", "size-zeros", "exact"):
        assert claims[name]["verdict"] == "met", name
    assert {"wanda-50", *_quality.GOALS, "size-file", "zeros", "zeros-csr", "zeros-bitmask",
            "decode", "prefill"} <= set(claims)  # fmt: skip
    assert all(claims[name]["verdict"] is None for name in _gpu.CLAIMS) and claims["wanda-50"]["headline"]
    assert claims["decode"]["bound"] > 1.2


def test_bench_without_a_base(home, monkeypatch):
    monkeypatch.setenv("THIRTY_HOME", str(home / "empty"))
    run_bench(_only_quality, None, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = json.loads((home / "cpu.json").read_text())["claims"]
    assert len(claims) == len(_quality.AGAINST) + len(_quality.GOALS)
    assert all("no models/base" in claim["why"] and claim["verdict"] is None for claim in claims)


def _only_quality(b):
    _quality.bench_quality(b)
    _quality.bench_recovery(b)


def test_interval_of_two_increases():
    """The ratio of means lies inside, and it narrows where the texts agree."""
    base, theirs = [1.0] * 12, [1.2] * 12
    low, high = _quality.interval([1.1] * 12, theirs, base)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)
    low, high = _quality.interval([1.0, 1.2] * 6, theirs, base)
    assert low < 0.4 < 0.6 < high


def test_smaller_and_silent_are_the_same_model():
    """What the bench times: both sides give the same logits, one with fewer weights."""
    model = _speed.model_of(_speed.SMALL)
    small = _speed.smaller_model(model, 0.3)
    whole = _speed.silent(model, small)
    for call in (lambda m: _speed.decoding(m, 3)(), lambda m: _speed.reading(m, 9)()):
        assert (call(whole) - call(small)).abs().max() < 1e-5 < (call(model) - call(small)).abs().max()
    assert 0.6 < _speed.weights_read(small) / _speed.weights_read(model) <= 0.7
    assert _lab.shares(small, model)["left of all"] <= 0.7


def test_bad_input(home, capsys):
    for i, (module, arguments, why) in enumerate((
            (train, ("--sparsity", 0), "0 would prune nothing"), (train, ("--sparsity", 1), "leave no model"),
            (train, ("--pattern", "4:2", "--method", "wanda"), "'4:2' is no pattern"),
            (train, ("--pattern", "2:4"), "structured has no pattern"),
            (train, ("--method", "gradual", "--steps", 0), "give it steps"),
            (train, ("--windows", 0), "at least 1"), (train, ("--context", 100), "longer than the 64 tokens"),
            (train, ("--layers", 5), "has 2 layers"), (train, ("--layers", 1), "more than"),
            (train, ("--layers", 1, "--method", "wanda"), "method structured"),
            (train, ("--method", "wanda", "--masks", home / "none"), "no file of masks"),
            (explore, ("--parts", "film"), "no part is called film"),
            (explore, ("--shares", 0.5, 1.0), "leave no model"))):  # fmt: skip
        assert why in refused(capsys, module, "smoke", *arguments, "--out", home / str(i)), why


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 17 …` and `explore 17 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: torch's own pruning leaves what ours leaves."""
    (left,) = snippets(LESSON)
    assert torch.equal(left["ours"], left["theirs"])


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
