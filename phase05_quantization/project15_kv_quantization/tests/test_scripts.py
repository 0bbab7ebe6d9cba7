"""The scripts and the lesson: every preset in small, every command, the snippet, the proofs."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for
from phase05_quantization.project15_kv_quantization import bench, explore, generate, kv_quant
from phase05_quantization.project15_kv_quantization._break import with_scales_of
from phase05_quantization.project15_kv_quantization._lab import (
    Rounding,
    answers,
    facts,
    lookup_model,
    surprise,
)
from phase05_quantization.project15_kv_quantization.rows import quantize

LESSON = Path(generate.__file__).parent / "README.md"


@pytest.fixture
def home(home):
    """Its place for runs with a tiny model in it."""
    model_folder(home / "m", max_seq_len=192, head_dim=16)
    return home


def test_smoke_generate(home, capsys):
    """Texts, memory of each, how far they agree, a picture."""
    run(generate, "smoke", "--model", "m", "--out", "here")
    said = capsys.readouterr().out
    for words in ("--- full ---", "--- 2 bits ---", "tokens/s", "of the full cache's", "48 tokens agree"):
        assert words in said
    found = metrics(home / "here")
    assert found["agree, full"] == 1 and found["MB, 2 bits"] < found["MB, 4 bits"] < found["MB, full"]
    assert (home / "here" / "bytes.png").read_bytes().startswith(b"\x89PNG")


def test_is_on_in_the_script(home, monkeypatch):
    """Codes that raise when they are made make the script fail: it really uses what the learner wrote."""

    def broken(x, bits):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(kv_quant, "quantize", broken)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        run(generate, "smoke", "--model", "m")


def test_smoke_explore(home):
    """Every experiment in small; what must hold in each holds, and the breaks break."""
    run(explore, "smoke", "--model", "m", "--out", "here")
    found = metrics(home / "here")
    assert found["edges: refused"] == found["edges: asked"]
    assert found["position: 8 bits, window"] == found["position: 2 bits, window"] == 0
    assert 0 < found["position: 8 bits, error"] < found["position: 4 bits, error"]
    assert found["memory: 8 bits, heads of 128"] == pytest.approx(100 * 268 / 512)
    assert found["recall: full cache"] == found["recall: 8 bits"] == found["recall: 4 bits"] == 1
    assert found["recall: 4 bits, keys with a scale a channel"] == 1
    assert found["recall: 4 bits, keys with one scale"] < 1
    assert 0 < found["integers: keys in 8 bits"] < found["integers: and the query too"] < 5
    assert found["axes: keys, 2 bits, one scale"] > found["axes: keys, 2 bits, a scale a channel"]
    for name in ("outliers", "axes", "position", "bits", "memory", "rope"):
        assert (home / "here" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_smoke_bench(home):
    """Every claim is made, the sides agree, and what needs a GPU says that it was not run."""
    made = home / "models" / "base"
    model_folder(made, max_seq_len=192, head_dim=16)
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert set(claims) == {"capacity", "share", "formula", "perplexity-8", "perplexity-4", "recall-8",
                           "recall-4", "codes", "attention", "decode-512", "decode", "decode-long",
                           "break-even", "gpu-slope", "gpu-break-even", "gpu-capacity", "gpu-int4"}
    for name in ("share", "formula", "recall-8", "recall-4"):
        assert claims[name]["verdict"] == "met", name
    assert claims["share"]["ratio"] == pytest.approx(268 / 512)
    assert claims["gpu-slope"]["verdict"] is None


def test_bad_input(home, capsys):
    assert "no part is called gantt" in refused(capsys, explore, "smoke", "--parts", "gantt")
    assert "at least 1" in refused(capsys, explore, "smoke", "--rows", 0)
    assert "too short" in refused(capsys, explore, "smoke", "--context", 64)
    assert "prompt is empty" in refused(capsys, generate, "smoke", "--prompt", "")
    assert "window of 0" in refused(capsys, generate, "smoke", "--window", 0)
    assert "multiple of 16" in refused(capsys, generate, "smoke", "--group", 8)
    model_folder(home / "short", max_seq_len=64)
    assert "at least 192" in refused(capsys, explore, "smoke", "--model", "short", "--parts", "outliers")


# ---- the instruments ----


@torch.no_grad()
def test_the_wired_model_looks_up():
    """All facts, 300 tokens back, with the full cache; another fact gives another answer."""
    model = lookup_model(context=400)
    prompts, right = facts(model, 4, 300)
    got = answers(model, prompts, right.size(1), lambda size: caches_for(model, KVCache, 4, size))
    assert torch.equal(got, right) and len({tuple(row.tolist()) for row in right}) == 4
    assert not any(word in prompts[0, 8:-1] for word in right[0])


@torch.no_grad()
def test_surprise_through_a_cache_is_surprise():
    """In chunks or not; and the trial cache hands out what it was told to round, but for the window."""
    model = lookup_model(vocab_size=64, context=64)
    tokens = torch.randint(64, (2, 40), generator=torch.Generator().manual_seed(0))
    want = F.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    for chunk in (1, 7, 40):
        torch.testing.assert_close(surprise(model, tokens, caches_for(model, KVCache, 2, 40), chunk), want)
    cache, x = Rounding(lambda k, *_: 0 * k, group=4, window=5), torch.ones(1, 1, 30, 2)
    cache.update(x[:, :, :20], x[:, :, :20], torch.arange(20))
    k, v = cache.update(x[:, :, 20:], x[:, :, 20:], torch.arange(20, 30))
    assert k[0, 0, :, 0].tolist() == [0.0] * 12 + [1.0] * 18 and (v == 1).all()


def test_stale_scales_cut_off():
    """Groups in the scales of the first: as they are where they are no louder, cut where they are."""
    rows = torch.randn(1, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = rows[:, 0]
    rows[:, 2] = 10 * rows[:, 0]
    stale = kv_quant.dequantize(with_scales_of(rows[:, :1], rows, 8))
    assert torch.equal(stale[:, :2], kv_quant.dequantize(quantize(rows, 8))[:, :2])
    assert stale[:, 2].abs().max() <= rows[:, 0].abs().max() * 1.01


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 15 …` and `explore 15 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 4


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    pytest.importorskip("transformers")
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
