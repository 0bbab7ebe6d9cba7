"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
from pathlib import Path

import pytest

from common import hub
from common.cli import restores
from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase07_architecture.project21_moe import _lab, bench, explore, moe, train

LESSON = Path(train.__file__).parent / "README.md"


def test_smoke_train(home, capsys):
    """Both trainings, the table, a text, a folder that loads, a picture."""
    run(train, "smoke", "--out", home / "out", "--save")
    said, found = capsys.readouterr().out, metrics(home / "out")
    for words in ("of which a token meets", "of the dense model's, with", "load: CV", "the mixture writes:"):
        assert words in said
    assert found["experts: weights"] > found["experts: active"] > found["dense: weights"]
    ratio = found["experts: loss"] / found["dense: loss"]
    assert found["loss against dense"] == pytest.approx(ratio) and 0.8 < ratio < 1.2
    assert 0 <= found["load cv"] <= 3**0.5 and 0 < found["load evenness"] <= 1
    model = hub.load(home / "models" / "moe", restore=restores.table())
    assert [len(layer.experts) for layer in moe.layers(model)] == [4]
    assert (home / "out" / "moe.png").read_bytes().startswith(b"\x89PNG")


def test_smoke_train_upcycled(home):
    """From a trained model: a token meets two copies of the feed-forward, all experts of the old size."""
    model_folder(home / "models" / "base", n_layer=1)
    run(train, "smoke", "--out", home / "out", "--upcycle", "--balance", "bias", "--capacity", "1.5")
    found = metrics(home / "out")
    assert found["experts: active"] > found["dense: weights"] == found["dense: active"]
    assert abs(found["loss against dense"] - 1) < 0.2
    model = hub.load(home / "out" / "model", restore=restores.table())
    assert model.blocks[0].ffn.experts[0].w_up.out_features == model.config.d_ff
    assert model.blocks[0].ffn.router.bias.abs().max() > 0


def test_is_on_in_the_script(home):
    """Sorted segments that raise make the script fail: it really uses what the learner wrote."""
    with unplugged(moe.sorted_segments):
        run(train, "smoke", "--out", home / "out")


def test_smoke_explore(home):
    """Every experiment in small; what must hold holds."""
    run(explore, "smoke", "--out", home / "out")
    found = metrics(home / "out")
    assert {path.stem for path in (home / "out").glob("*.png")} == set(explore.EXPERIMENTS)
    assert found["toy: two, blended"] < 0.5 * found["toy: one line"]
    assert found["toy: two, the better one"] < 0.5 * found["toy: one line"]
    assert found["experts: weights, 8"] > found["experts: weights, 4"] > found["experts: weights, 1"]
    assert found["experts: met, 8"] < 1.3 * found["experts: met, 1"]
    assert found["capacity: 0.5, dropped"] >= 0.49 and found["capacity: all, dropped"] == 0
    assert found["capacity: neighbours"] > 1e-4
    assert found["softmax: softmax, lowest sum"] == pytest.approx(2, abs=1e-4)
    assert found["softmax: none, lowest sum"] < 1.9


def test_smoke_bench(home):
    """Every claim is made; the sorted way is exact; what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert list(claims) == ["quality", "wall-clock", "balance", "balance-bias", "collapse", "exact",
                            "sorted-mask", "sorted-loop", "dense", "gpu-dense", "gpu-torch",
                            "gpu-loop"]  # fmt: skip
    assert claims["exact"]["verdict"] == "met" and len(claims["exact"]["settings"]["others"]) == 3
    assert all(claims[id]["verdict"] is None for id in ("gpu-dense", "gpu-torch", "gpu-loop"))
    assert claims["sorted-loop"]["settings"]["sweep"]["rows"]


def test_bad_input(home, capsys):
    assert "k is 9 of 4" in refused(capsys, train, "smoke", "--k", 9)
    assert "do not divide among k = 5" in refused(capsys, train, "smoke", "--experts", 8, "--k", 5)
    assert "capacity is -1" in refused(capsys, train, "smoke", "--capacity", -1)
    assert "at least 1" in refused(capsys, train, "smoke", "--steps", 0)
    assert "more tokens than eight contexts" in refused(capsys, train, "smoke", "--judged", 10)
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "fewer than 4" in refused(capsys, explore, "smoke", "--experts", 2)


def test_upcycling_reads_no_more_than_the_model_can(home, capsys):
    model_folder(home / "models" / "base", n_layer=1)
    said = refused(capsys, train, "smoke", "--upcycle", "--context", 70)
    assert "longer than the 64 tokens" in said


def test_batches_are_a_pure_function_of_their_number(tmp_path):
    plan = _lab.Plan(n_layer=1, d_model=16, d_ff=24, context=8, batch_size=2, vocab_size=280, judged=80)
    town = _lab.small_town(plan, tmp_path, "cpu")
    one, again = town.batches(plan), town.batches(plan)
    assert all((a == b).all() for a, b in zip(one(3), again(3), strict=True))
    assert (one(3)[0][:, 1:] == one(3)[1][:, :-1]).all() and (one(3)[0] != one(4)[0]).any()


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 21 …` and `explore 21 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: transformers' block gives what ours gives."""
    pytest.importorskip("transformers")
    (left,) = snippets(LESSON)
    assert left["far"] < 1e-5 and left["want"].std() > 1e-3


def test_wrong_solutions_are_caught():
    prove(__file__)
