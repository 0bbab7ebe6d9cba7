"""The project as a whole: scripts, the lesson's commands and snippet, the proofs."""

import json
from pathlib import Path

import pytest
import torch

from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets
from phase09_compiler.project25_operator_fusion import (
    _breaks,
    _gpu,
    _sides,
    _torchscript,
    bench,
    chains,
    cpp_ops,
    explore,
    generate,
)

LESSON = Path(chains.__file__).parent / "README.md"


def test_smoke_generate(home, capsys):
    """Both write the same; kernels, bytes and a picture."""
    model_folder(home / "m")
    run(generate, "smoke", "--model", home / "m", "--out", home / "out")
    found = metrics(home / "out")
    assert found["same"] == 1.0 and found["kernels fused"] <= found["kernels"]
    assert "the two texts agree" in capsys.readouterr().out
    assert (home / "out" / "step.png").read_bytes().startswith(b"\x89PNG")


def test_smoke_explore(home, capsys):
    """Every experiment in small, but for the export, which takes longer: its picture; breaks break."""
    model_folder(home / "m")
    parts = [name for name in explore.EXPERIMENTS if name != "onnx"]
    run(explore, "smoke", "--model", home / "m", "--out", home / "out", "--parts", *parts)
    found = metrics(home / "out")
    assert {path.stem for path in (home / "out").glob("*.png")} == set(parts)
    assert found["breaks: clean: breaks"] == found["breaks: the model, fused: breaks"] == 0
    assert all(found[f"breaks: {name}: breaks"] > 0 for name in _breaks.CAUSES if name != "clean")
    assert (
        found["order: one after another, in bfloat16"]
        > 100 * found["order: 16 sums side by side, in float32"]
    )
    assert found["traffic: norm, bytes"] >= 1


@pytest.mark.slow
def test_onnx_keeps_the_logits(home):
    """The export and ONNX Runtime's fusion: fewer nodes, the same logits."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model_folder(home / "m")
    run(explore, "smoke", "--model", home / "m", "--out", home / "out", "--parts", "onnx")
    found = metrics(home / "out")
    assert found["onnx: error"] < 1e-4
    assert found["onnx: extended: nodes"] < found["onnx: exported: nodes"]


def test_matches_torchscript():
    """Scripted and traced, a step gives the model's logits; the model is refused; all is deprecated."""
    model, prompt = small(), torch.tensor([[3, 5, 7, 9]])
    found, said = _torchscript.steps(model, prompt)
    want = _sides.step_of(model, prompt)()
    for call in found.values():
        torch.testing.assert_close(call(), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(call(), want, rtol=1e-4, atol=1e-5)  # and again, at the same place
    assert "deprecated" in said["deprecated"].lower() and said["refused"]


def small():
    from common.model import GPT
    from common.testing import tiny

    torch.manual_seed(0)
    return GPT(tiny()).eval()


def test_matches_what_is_measured():
    """Each operation of the bench: ours gives what PyTorch gives, with gradients where they are timed."""
    ops = _sides.kernels(print)
    for name, (eager, ours, inputs, gradients) in _sides.operations(
        ops, 8, C=32, d_ff=24, V=50, heads=4
    ).items():
        results = [_sides.call_of(fn, inputs, gradients)() for fn in (eager, ours)]
        results = [r if isinstance(r, tuple) else (r,) for r in results]
        for want, got in zip(*results, strict=True):
            torch.testing.assert_close(
                got, want, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )


def test_two_texts_may_part_only_at_a_tie():
    """The check of the bench: equal, or as likely; a token from anywhere else is a wrong answer."""
    model, prompt = small(), torch.tensor([[3, 5]])
    check, want = _sides.same_choice(model, prompt), torch.tensor([[1, 2, 3]])
    assert check(want, want)
    with torch.no_grad():
        logits = model(torch.cat((prompt, want[:, :1]), 1))[0, -1]
    assert not check(want, torch.tensor([[1, int((logits - logits[2]).abs().argmax()), 3]]))


def test_smoke_bench(home, monkeypatch, capsys):
    """The whole bench in small, without waiting for inductor: every claim is made or says why not."""
    monkeypatch.setattr(_sides, "BACKEND", "eager")
    monkeypatch.setattr(bench, "bench_onnx", lambda b, t: None)
    monkeypatch.setattr(_sides.chain, "find", lambda *a, **k: model_folder(home / "m", n_head=4))
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home / "out")])
    claims = {claim["id"]: claim for claim in json.loads((home / "out" / "cpu.json").read_text())["claims"]}
    assert {"decode", "torchscript-traced", "op-norm", "op-adamw", "training", "memory", "breaks"} <= set(
        claims
    )
    assert {name for name, *_ in _gpu.CLAIMS} <= {
        name for name, claim in claims.items() if not claim["verdict"]
    }
    assert claims["breaks"]["verdict"] == "met" and claims["decode"]["headline"]


def test_mistakes_of_a_user(capsys):
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "at least 16" in refused(capsys, explore, "smoke", "--tokens", "3")
    assert "the prompt is empty" in refused(capsys, generate, "smoke", "--prompt", "")


def test_without_a_compiler(monkeypatch):
    """The scripts go on with the chains of PyTorch, and say so."""

    def refuse():
        raise cpp_ops.demand(False, "no C++ compiler (c++): install g++")

    said = []
    monkeypatch.setattr(cpp_ops, "kernels", refuse)
    assert _sides.kernels(said.append) is chains.KERNELS
    assert "no C++ compiler" in said[0] and "nothing to gain" in said[0]


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 25 …` and `explore 25 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 3


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    assert len(snippets(LESSON)) >= 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    pytest.importorskip("triton")  # five of the exercises are kernels
    prove(__file__)
