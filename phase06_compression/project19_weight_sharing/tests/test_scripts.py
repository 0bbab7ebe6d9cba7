"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
import re
from pathlib import Path

import pytest
import torch

from common import hub
from common.benchmark import values
from common.cli.bench import bench as run_bench
from common.model import ModelConfig
from common.proofs import prove
from common.testing import tiny
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase06_compression.project19_weight_sharing import (
    _ways,
    bench,
    explore,
    factorised,
    folders,
    layer_sharing,
    train,
    tying,
)

LESSON = Path(train.__file__).parent / "README.md"


@pytest.fixture(autouse=True)
def base(home):
    """As models/base a tiny model, to which a wrong weight matters."""
    return model_folder(home / "models" / "base", n_layer=2, loud=6, d_model=16, d_ff=24, tie_embeddings=True)


def test_smoke_train(home, capsys):
    """Every way: trained, saved once, loaded the same; parameters fall where they must, and FLOPs do not."""
    ways = [way for way in _ways.WAYS if way != "sandwich"]  # two layers have no middle
    run(train, "smoke", "--out", home / "out", "--n_layer", 2, "--ways", *ways)
    said, found = capsys.readouterr().out, metrics(home / "out")
    assert "each folder holds what is shared once" in said and "writes:" in said
    n = {way: found[f"{way}: parameters"] for way in ways}
    work = {way: found[f"{way}: flops"] for way in ways}
    assert n["untied"] > n["tied"] > n["attention"] > n["feed-forward"] > n["albert"] == n["twice"]
    assert n["half"] == n["twice"]
    assert work["untied"] == work["tied"] == work["albert"] == work["twice"] > work["half"]
    assert work["factorised"] < work["tied"] and n["factorised"] < n["tied"]
    assert all(4 * n[way] < found[f"{way}: bytes"] < 4 * n[way] + 8000 for way in ways)
    again = hub.load(home / "out" / "twice" / "model", restore={layer_sharing.BY: folders.restore})
    assert again.blocks[0] is again.blocks[1] and tying.count(again) == n["twice"]
    assert (home / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("function", "way"), [(layer_sharing.join, "twice"), (tying.tie, "tied"),
                                               (factorised.low_rank, "factorised")])  # fmt: skip
def test_is_on_in_the_script(home, function, way):
    """A technique that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(function):
        run(train, "smoke", "--ways", way)


def test_smoke_explore(home, capsys):
    """Every experiment in small; what must hold holds, and the breaks break."""
    run(explore, "smoke", "--out", home / "out")
    said, found = capsys.readouterr().out, metrics(home / "out")
    assert {path.stem for path in (home / "out").glob("*.png")} == {*explore.EXPERIMENTS} - {"unlike"}
    assert found["parts: untied, 10000"] == 1 > found["parts: tied, 10000"] > found["parts: tied, 50257"]
    assert found["parts: albert, 10000"] < found["parts: twice, 10000"] < found["parts: tied, 10000"]
    assert found["vocabulary: 12 x 768, 10000"] == pytest.approx(0.0766, abs=1e-4)
    held = {name: found[f"ties: {name}, held"]
            for name in ("right", "after the optimiser", "one memory", "equal values")}  # fmt: skip
    assert held["right"] < held["after the optimiser"] == held["one memory"] == held["equal values"]
    moved = {name: found[f"ties: {name}, moved"] for name in held}
    assert moved["right"] < 1.2 < 1.5 < moved["one memory"]
    apart = {name: found[f"ties: {name}, apart"] for name in held}
    assert apart["right"] == apart["one memory"] == 0 < apart["equal values"]
    for line in ("holds 1 parameters that the model no longer has", "two Parameters in one memory"):
        assert line in said
    assert found["unlike: tie"] == found["unlike: layers"] == 1
    assert {"ranks: table, 14", "ranks: first, 8", "ranks: mean, 0"} <= found.keys()
    assert found["cold: the first, and rank 2, at once"] != found["cold: the first of two, at once"]
    assert found["cold: the first of two, at once"] == pytest.approx(found["ranks: first, 0"], rel=0.02)


def test_smoke_bench(home):
    """Every claim is made; counts are what they must be; what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert list(claims) == ["tie-50k", "tie-10k", "tie-loss", "share-loss", "repeat", "flops", "file", "step",
                            "decode-twice", "decode-one", "decode-cycle", "gpu-loss", "gpu-step",
                            "gpu-memory"]  # fmt: skip
    assert all(claims[id]["verdict"] == "met" for id in ("tie-50k", "tie-10k", "flops"))
    assert claims["flops"]["ratio"] == 1 and claims["file"]["ratio"] < 1
    assert all(claims[id]["verdict"] is None for id in ("gpu-loss", "gpu-step", "gpu-memory"))
    assert claims["decode-twice"]["bound"] == 2 and claims["decode-one"]["bound"] == 4
    assert len(claims["decode-twice"]["settings"]["sweep"]["rows"]) == 2


def test_bad_input(home, capsys):
    assert "no way is called hash" in refused(capsys, train, "smoke", "--ways", "hash")
    assert "must be at least 1" in refused(capsys, train, "smoke", "--steps", 0)
    assert "more tokens than one context" in refused(capsys, train, "smoke", "--judged", 10)
    assert "at least 3 layers, not 2" in refused(capsys, train, "smoke", "--n_layer", 2, "--ways", "sandwich")
    assert "longer than the 64 tokens" in refused(capsys, explore, "smoke", "--context", 100, "--judged", 900)
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")


def test_interval_over_seeds():
    """Student's, with two degrees of freedom, of log-ratios in pairs; none for one seed."""
    found = bench.by_seed(values("a", [1.0, 1.1, 1.2], "b", [1.0, 1.0, 1.0]))
    logs = torch.tensor([1.0, 1.1, 1.2]).log()
    half = 4.303 * logs.std() / 3**0.5
    ends = [(logs.mean() + sign * half).exp().item() for sign in (-1, 1)]
    assert list(found["interval"]) == pytest.approx(ends, rel=1e-4)
    assert found["ratio"] == pytest.approx(1.1)
    assert bench.by_seed(values("a", [1.0], "b", [1.0]))["interval"] is None


def test_ways_count_as_they_are():
    """Counted on meta as in memory; the parts add up; as many parameters for "twice" as for "half"."""
    config = tiny(n_layer=4)
    for way in _ways.WAYS:
        model = _ways.build(way, config, 0)
        assert tying.count(_ways.on_meta(way, config)) == tying.count(model)
        assert sum(_ways.breakdown(model).values()) == tying.count(model)
    assert tying.count(_ways.on_meta("twice", config)) == tying.count(_ways.on_meta("half", config))
    assert _ways.breakdown(_ways.on_meta("tied", config))["head"] == 0


# ---- the lesson ----


def test_table_of_the_lesson():
    """The shares by vocabulary that the lesson shows are those that `tied_share` gives."""
    rows = [line.split("  ") for line in LESSON.read_text("utf-8").splitlines()
            if re.match(r"  (tokens in|GPT-2 small, 12|the base model, 6)", line)]  # fmt: skip
    (_, *sizes), *models = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    base = ModelConfig(vocab_size=1, n_layer=6, n_head=8, n_kv_head=4, d_model=256, d_ff=640)
    rests = (768, bench.GPT2_REST), (256, tying.count(_ways.on_meta("untied", base)) - 2 * 256)
    assert len(sizes) == 6 and len(models) == 2
    for (_, *shown), (width, rest) in zip(models, rests, strict=True):
        true = [tying.tied_share(int(size.replace(",", "")), width, rest) for size in sizes]
        assert shown == [f"{100 * share:.1f} %" for share in true]


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 19 …` and `explore 19 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 5


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: transformers' own tie and ours save as many parameters."""
    pytest.importorskip("transformers")
    (left,) = snippets(LESSON)
    assert left["saved"] == left["model"].embed.weight.numel()


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
