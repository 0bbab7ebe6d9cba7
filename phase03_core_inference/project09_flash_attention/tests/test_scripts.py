"""The project as a whole: scripts, the lesson's commands and snippet, the caches of project 8, the proofs."""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.cli.bench import bench as run_bench
from common.model import attend, set_attend
from common.proofs import prove
from common.testing import trained
from common.trial import commands, metrics, model_folder, refused, run, snippets
from phase03_core_inference.project08_kv_cache.kv_cache import (
    KVCache,
    StaticCache,
    caches_for,
    decode,
    decode_ragged,
)
from phase03_core_inference.project09_flash_attention import (
    _break,
    _gpu,
    _sides,
    bench,
    explore,
    generate,
    tiled,
)

LESSON = Path(tiled.__file__).parent / "README.md"


# ---- the scripts ----

def test_smoke_generate(home, capsys):
    """Every side writes the same, the kernel too where Triton is; a picture, and what each held."""
    model_folder(home / "m", head_dim=16)
    run(generate, "smoke", "--model", home / "m", "--out", home / "out")
    said = capsys.readouterr().out
    assert all(f"{name}, " in said for name in generate.SIDES)
    assert "triton, " in said or "triton is not installed" in said
    assert metrics(home / "out")["agreement"] == 1.0
    assert (home / "out" / "prefill.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_the_kernel_does_not_take(home, capsys):
    """Its head_dim is none of the kernel's: the others run, and a line says so."""
    model_folder(home / "m", head_dim=24)
    run(generate, "smoke", "--model", home / "m", "--out", home / "out")
    said = capsys.readouterr().out
    assert "this model 24: it is left out" in said or "triton is not installed" in said


def test_without_triton(monkeypatch):
    """The kernel is left out, and the line names the extra."""
    project = "phase03_core_inference.project09_flash_attention"
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, f"{project}.triton_kernel", raising=False)
    monkeypatch.delattr(f"{project}.triton_kernel", raising=False)
    said = []
    assert _sides.kernel(32, said.append) is None
    assert "triton is not installed" in said[0] and "the extra kernels" in said[0]


def test_smoke_explore(home, capsys):
    """Every experiment in small: its picture is there, and the breaks break."""
    run(explore, "smoke", "--out", home / "out")
    pictures = {path.name for path in (home / "out").glob("*.[pg][ni][gf]")}
    assert pictures >= {f"{name}.png" for name in set(explore.EXPERIMENTS) - {"tiles"}} | {"tiles.gif"}
    found = metrics(home / "out")
    assert found["tiles: computed"] == 3 and found["training: apart"] < 1e-3
    assert found["rescale: spread 1: first tile"] < 1e-5 < 0.1 < found["rescale: spread 1"]
    assert found["maximum: right, spread 100"] == 1.0 > 0.5 > found["maximum: without, spread 100"]


def test_smoke_bench(tmp_path, capsys):
    """The whole bench in small: every claim is made, and what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(tmp_path)])
    claims = json.loads((tmp_path / "cpu.json").read_text())["claims"]
    names = [claim["id"] for claim in claims]
    assert names[:8] == ["time", "sdpa", "training", "training-sdpa", "memory", "memory-training", "error",
                         "error-training"]  # fmt: skip
    assert {claim["id"] for claim in claims if claim["verdict"] is None} == {
        *(name for name, *_ in _gpu.CLAIMS), "gpu-memory", "gpu-error"}  # fmt: skip
    assert next(claim for claim in claims if claim["id"] == "error")["verdict"] == "met"


def test_mistakes_of_a_user(capsys):
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "at least 1" in refused(capsys, generate, "smoke", "--max_tokens", "0")
    assert "the prompt is empty" in refused(capsys, generate, "smoke", "--prompt", "")


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 9 …` and `explore 9 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 5


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: SDPA and FlexAttention give what the tiles give."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FlexAttention would rather be compiled
        assert len(snippets(LESSON)) == 1


# ---- with what is there already ----

def test_matches_the_core_under_the_caches_of_project_8():
    """Token for token, in the cache that counts and in the one with a place for every position."""
    model, tokens = trained(steps=30), torch.tensor([[3, 5, 7, 9], [20, 19, 18, 17]])
    prompts = [[3, 5, 7], [20, 19, 18, 17, 16]]

    def both():
        counting, addressed = (caches_for(model, kind, 2, 40) for kind in (KVCache, StaticCache))
        return decode(model, tokens, 12, counting), decode_ragged(model, prompts, 12, addressed)

    want = both()
    set_attend(model, tiled.attend)
    for mine, true in zip(both(), want, strict=True):
        assert mine.shape == (2, 12) and torch.equal(mine, true)


def test_trains_like_sdpa():
    """The same start and batches through torch's attention and through tiles: one curve."""
    run = SimpleNamespace(device=torch.device("cpu"), say=print)
    lab = explore.Lab(explore.Config(steps=12, characters=20_000), run)
    town = _break.Town(lab, context=40, rows=4)
    (_, mine), (_, want) = town.trained(_break.by_tiles), town.trained(attend)
    assert max(abs(a - b) for a, b in zip(mine, want, strict=True)) < 1e-3
    assert mine[-1] < mine[0] - 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    pytest.importorskip("triton")  # three of the exercises are kernels
    prove(__file__)
