"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
import math
from pathlib import Path

import pytest
import torch

from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.testing import trained
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase03_core_inference.project08_kv_cache.kv_cache import decode
from phase09_compiler.project26_graph_optimization import _lab, bench, explore, generate, plan

LESSON = Path(generate.__file__).parent / "README.md"


@pytest.fixture(autouse=True)
def base(home):
    """As models/base a tiny model that has something to say."""
    return model_folder(home / "models" / "base", loud=6, max_seq_len=64)


def test_smoke_generate(home, capsys):
    """Both texts, that they agree, tokens/s, a picture, and the plan where it is asked for."""
    run(generate, "smoke", "--out", home / "out", "--source")
    said, found = capsys.readouterr().out, metrics(home / "out")
    for words in ("--- as it is ---", "--- rewritten ---", "agree, token for token", "tokens/s", "def step(",
                  "norm_gated", "MB"):  # fmt: skip
        assert words in said, words
    assert found["same"] == 1 and found["computing"] < 30
    assert (home / "out" / "counts.png").read_bytes().startswith(b"\x89PNG")


def test_is_on_in_the_script():
    """A plan that raises makes the script fail: it really runs what the learner wrote."""
    with unplugged(plan.place_node):
        run(generate, "smoke")


def test_smoke_explore(home):
    """The parts in small (operators and stacks: slow, see below); what must hold holds."""
    parts = "graph", "counts", "source", "time", "shapes", "cache"
    run(explore, "smoke", "--out", home / "out", "--parts", *parts)
    found = metrics(home / "out")
    pictures = {path.stem for path in (home / "out").glob("*.png")}
    assert pictures == {"graph", "counts", "time", "cache"}
    assert found["counts: in the end"] < found["counts: captured"] / 3
    assert found["shapes: runs 1, 1"] == 1 and found["shapes: open 3, 4, 9"] == 3 * 4 * 260
    off = found["shapes: length is a constant, off by"]
    assert math.isnan(off) or off > 1e-3, "a baked length is refused (nan), or felt"


@pytest.mark.slow
def test_smoke_explore_slowly(home):
    """What is refused is named; stacks agree."""
    run(explore, "smoke", "--out", home / "out", "--parts", "operators", "stacks")
    found = metrics(home / "out")
    assert found["operators: plain, breaks"] == 0 and found["operators: question, breaks"] >= 1
    assert found["operators: operator, ONNX"] == 0 == found["operators: question, one graph"]
    assert found["stacks: our passes, drift"] < 1e-3


def test_smoke_bench(home, monkeypatch):
    """Every claim is made; what needs a GPU says that it was not run."""
    monkeypatch.setitem(bench.STACKS, "ONNX Runtime", bench.STACKS["eager"])
    monkeypatch.setattr(bench, "onnx_side", lambda t, folder: None)
    monkeypatch.setattr(bench, "bench_parity", lambda b, t: None)
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert list(claims) == ["eager-10m", "compile-10m", "onnx-10m", "optimise-10m", "pays-10m", "stacks-10m",
                            "drift-10m", "gpu-graph", "gpu-reduce-overhead", "gpu-capture"]  # fmt: skip
    assert claims["eager-10m"]["headline"] and claims["gpu-graph"]["verdict"] is None
    assert claims["stacks-10m"]["settings"]["absent"]["vLLM"]
    assert claims["drift-10m"]["verdict"] == "met"


@pytest.mark.slow
def test_smoke_bench_with_onnx(home):
    """The same with ONNX Runtime."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert claims["parity"]["verdict"] == "met" and claims["onnx-10m"]["verdict"] is not None


def test_memory_in_a_process_of_its_own(tmp_path):
    """What a stack adds is more than nothing, and is measured where nothing else is."""
    held = bench.memory_of("eager", "10M", str(tmp_path), {"d_model": 16, "d_ff": 16, "vocab_size": 97})
    assert held is None or held >= 0


def test_when_it_pays():
    assert bench.paid(3.0, 2e-3, 1e-3) == pytest.approx(3000) and bench.paid(1.0, 1e-3, 1e-3) is None


def test_steps_are_repeatable():
    """The same step again and again gives the same logits: the cache is what it was."""
    t = _lab.Steps(trained(steps=1, n_layer=1), 16, 7)
    first = t(t.model).clone()
    assert torch.equal(first, t(t.model))
    with torch.no_grad():
        torch.testing.assert_close(first, t.model(t.ids)[0, -1])


def test_bad_input(capsys):
    assert "prompt is empty" in refused(capsys, generate, "smoke", "--prompt", "")
    assert "no stack is called TVM" in refused(capsys, explore, "smoke", "--stacks", "TVM")
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "longer than the 64" in refused(capsys, explore, "smoke", "--size", 200)


def test_commands_of_the_lesson():
    """Every command of the README reads as the scripts do."""
    assert len(commands(LESSON)) >= 4


def test_snippets_of_the_lesson():
    """The README's Python runs, and its step writes what the model writes."""
    model = trained(steps=40).float()
    found = snippets(LESSON, model=model, prompt=[3, 5, 7])
    ids = [space["ids"] for space in found if "ids" in space]
    assert torch.equal(ids[0], decode(model, torch.tensor([[3, 5, 7]]), ids[0].size(1)))


def test_wrong_solutions_are_caught():
    """For every exercise: the stub fails, the reference passes, each wrong solution fails."""
    prove(__file__)
