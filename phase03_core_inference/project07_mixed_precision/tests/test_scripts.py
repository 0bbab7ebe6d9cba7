"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
from pathlib import Path

import pytest
import torch

from common.cli.bench import bench as run_bench
from common.model import GPT
from common.proofs import prove
from common.testing import tiny
from common.trial import commands, metrics, refused, run, snippets
from phase03_core_inference.project07_mixed_precision import _gpu, _lab, bench, explore, train

LESSON = Path(train.__file__).parent / "README.md"


# ---- the scripts ----


def test_smoke_train(home):
    """Every precision trains, from one start; memory is where the arithmetic says; a picture."""
    run(train, "smoke", "--out", home / "out")
    found = metrics(home / "out")
    assert {name.split(":")[0] for name in found} == set(_lab.PRECISIONS)
    assert abs(found["bf16: apart"]) < 0.02 and abs(found["bf16-masters: apart"]) < 0.02
    weights = found["fp32: weights"]
    assert found["bf16: weights"] == found["fp8: weights"] == weights == found["fp32: gradients"]
    assert found["bf16-masters: weights"] == 1.5 * weights  # 4 bytes and 2
    assert found["bf16-masters: gradients"] == weights  # as the optimiser finds them: in float32
    assert found["fp32: states"] >= 2 * weights
    assert found["bf16-masters: activations"] < 0.8 * found["fp32: activations"]
    assert 0.38 * weights < found["bf16: copies"] < 0.41 * weights  # no copy of the embedding
    assert found["fp32: copies"] < 0.1 * weights
    assert (home / "out" / "precisions.png").read_bytes().startswith(b"\x89PNG")


def test_smoke_explore(home):
    """Every experiment in small: its picture is there, and the breaks break."""
    run(explore, "smoke", "--out", home / "out")
    assert {path.stem for path in (home / "out").glob("*.png")} >= set(explore.EXPERIMENTS)
    found = metrics(home / "out")
    assert found["unscaled: not scaled, moved"] == 0 < found["unscaled: scaled, moved"]
    assert found["static: fixed, skipped"] == 6 and found["static: fixed, moved"] == 0
    assert found["norms: norm, float16"] == 1.0 and found["norms: norm, float32"] < 1e-5
    assert found["norms: softmax, float16"] == 4.0 and found["norms: softmax, float32"] == 1.0


def test_smoke_bench(tmp_path):
    """The whole bench in small: every claim is made, and what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(tmp_path)])
    claims = {claim["id"]: claim for claim in json.loads((tmp_path / "cpu.json").read_text())["claims"]}
    assert list(claims) == ["step", "autocast", "fp16", "activations", "weights", "inference-weights",
                            "prefill", "decode", "loss-bf16", "loss-bf16-masters", "loss-fp16", "loss-fp8",
                            *_gpu.CLAIMS]  # fmt: skip
    assert {name for name, claim in claims.items() if claim["verdict"] is None} == set(_gpu.CLAIMS)
    assert claims["weights"]["verdict"] == claims["inference-weights"]["verdict"] == "met"
    activations = claims["activations"]
    assert activations["ratio"] == pytest.approx(activations["prediction"], abs=0.1)


def test_mistakes_of_a_user(capsys):
    assert "no precision is called fp4" in refused(capsys, train, "smoke", "--precisions", "fp4")
    assert "multiple of 8" in refused(capsys, train, "smoke", "--d_model", "12")
    assert "at least 1" in refused(capsys, train, "smoke", "--steps", "0")
    assert "it must be even" in refused(capsys, train, "smoke", "--batch_size", "3")
    assert "no part is called fp4" in refused(capsys, explore, "smoke", "--parts", "fp4")


# ---- the arithmetic of the scripts ----


def test_kept_counts_what_autograd_keeps():
    """sin keeps its input; a parameter is not counted; a tensor kept twice counts once."""
    layer = torch.nn.Linear(8, 8, bias=False)
    x = torch.randn(4, 8)
    held, loss = _lab.kept(layer, x)
    assert held == x.nbytes and torch.equal(loss, layer(x))

    class Twice(torch.nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y.sin() + y.cos()

    assert _lab.kept(Twice(8, 8, bias=False), x)[0] == 2 * x.nbytes  # x, and y once


def test_unscaled_leaves_everything_as_it_is():
    """No scaler: the same losses as plain PyTorch."""
    batch = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0)).split((8, 1), 1)
    batch = batch[0], batch[0].roll(-1, 1)
    torch.manual_seed(0)
    one = _lab.side("fp32", GPT(tiny(vocab_size=32)))
    torch.manual_seed(0)
    plain = GPT(tiny(vocab_size=32))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(plain(batch[0]).flatten(0, 1), batch[1].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        assert one.update(batch) == pytest.approx(loss.item(), abs=1e-5)


# ---- the lesson ----


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 7 …` and `explore 7 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: torch's autocast and scaler give what ours give."""
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
