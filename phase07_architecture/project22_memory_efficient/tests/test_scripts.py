"""The project as a whole: scripts, the lesson's commands and snippet, a training, the proofs."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F

from common.cli.bench import bench as run_bench
from common.model import GPT, attend, set_attend
from common.proofs import prove
from common.testing import tiny
from common.trial import commands, metrics, model_folder, refused, run, snippets
from phase07_architecture.project22_memory_efficient import (
    _gpu,
    _sides,
    bench,
    chunked,
    explore,
    generate,
    parts,
)

LESSON = parts.__file__.replace("parts.py", "README.md")


def test_smoke_generate(home, capsys):
    """Every side writes the same, the kernel too where Triton is; a step over a cache, and its picture."""
    model_folder(home / "m", head_dim=16)
    run(generate, "smoke", "--model", home / "m", "--out", home / "out")
    said, found = capsys.readouterr().out, metrics(home / "out")
    assert all(f"{name}, " in said for name in generate.SIDES)
    assert "triton, " in said or "triton is not installed" in said
    assert found["agreement"] == 1.0
    assert found["split: peak bytes"] < found["SDPA, heads repeated: peak bytes"]
    assert (home / "out" / "step.png").read_bytes().startswith(b"\x89PNG")


def test_without_triton_or_a_head_dim_it_takes(monkeypatch):
    """The kernel is left out, and a line says why."""
    project, said = "phase07_architecture.project22_memory_efficient", []
    if _sides.kernel(24, said.append) is None:
        assert "this model 24: it is left out" in said[0] or "triton is not installed" in said[0]
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, f"{project}.triton_kernel", raising=False)
    monkeypatch.delattr(f"{project}.triton_kernel", raising=False)
    assert _sides.kernel(32, said.append) is None
    assert "triton is not installed" in said[-1] and "the extra kernels" in said[-1]


def test_smoke_explore(home, capsys):
    """Every experiment in small: its picture is there, and the breaks break."""
    model_folder(home / "m", head_dim=16, loud=8.0)
    run(explore, "smoke", "--model", home / "m", "--out", home / "out")
    pictures, found = {path.name for path in (home / "out").glob("*.png")}, metrics(home / "out")
    assert pictures == {f"{name}.png" for name in explore.EXPERIMENTS}
    assert found["parts: off"] < 1e-6 and found["one: off"] < 1e-5
    assert found["memory: forward: matrix, MB"] > 0 and found["waves: 1: shares"] > 1
    assert found["average: merged: tokens that agree"] == 1.0
    assert found["average: spread 1: off with 1"] == 0.0 < 0.1 < found["average: spread 1: off with 64"]
    right, wrong = "softmax of the weights", "exp as they are"
    assert found[f"overflow: {right}, spread 40"] == 1.0 > 0.5 > found[f"overflow: {wrong}, spread 40"]


def test_smoke_bench(tmp_path, capsys):
    """The whole bench in small: every claim is made, and what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(tmp_path)])
    claims = {claim["id"]: claim for claim in json.loads((tmp_path / "cpu.json").read_text())["claims"]}
    assert list(claims)[:14] == ["memory", "memory-training", "time", "time-training", "split",
                                 "sdpa-repeated", "sdpa", "own-threads", "bandwidth", "heads", "error",
                                 "error-sharp", "error-training", "gpu-unsplit"]  # fmt: skip
    assert {name for name, claim in claims.items() if claim["verdict"] is None} == {
        *(name for name, *_ in _gpu.CLAIMS), "gpu-bandwidth", "gpu-workspace", "gpu-memory"}  # fmt: skip
    assert all(claims[name]["verdict"] == "met" for name in ("error", "heads"))


def test_mistakes_of_a_user(capsys):
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "at least 1" in refused(capsys, generate, "smoke", "--max_tokens", "0")
    assert "a multiple of kv_heads" in refused(capsys, generate, "smoke", "--heads", "3", "--kv_heads", "2")
    assert "the prompt is empty" in refused(capsys, generate, "smoke", "--prompt", "")


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 22 …` and `explore 22 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 5


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    assert len(snippets(LESSON)) == 1


def test_trains_like_sdpa():
    """Five updates from one start through torch's attention and in chunks: the same losses."""
    curves = []
    for fn in (attend, lambda *given, **where: chunked.attend(*given, queries=5, keys=7, **where)):
        torch.manual_seed(0)
        model, tokens = set_attend(GPT(tiny()).double(), fn), torch.randint(97, (2, 20))
        optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.5), []
        for _ in range(5):
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[1] == pytest.approx(curves[0], abs=1e-10) and curves[0][-1] < curves[0][0]


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    pytest.importorskip("triton")  # one of the exercises is part of a kernel
    prove(__file__)
