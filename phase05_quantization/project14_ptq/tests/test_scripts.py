"""The project as a whole: scripts, folders that others serve, commands and snippet of the lesson, proofs."""

import json
from pathlib import Path

import pytest
import torch

from common import hub, tokenizer
from common.cli import restores
from common.cli.bench import bench as run_bench
from common.errors import UserError
from common.generate import Sampling, generate
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets
from phase05_quantization.project14_ptq import _gpu, _lab, bench, explore, quantize, rtn
from phase05_quantization.project14_ptq import generate as script

LESSON = Path(rtn.__file__).parent / "README.md"


@pytest.fixture
def folder(home):
    return model_folder(home / "m", n_layer=1, d_ff=64, loud=4)


# ---- the scripts ----


def test_smoke_quantize(home, folder, capsys):
    """A folder that loads with restore, is refused without, has the perplexity printed, and a file."""
    run(quantize, "smoke", "--model", folder, "--method", "rtn", "--bits", 4, "--group", 32, "--tables", 4,
        "--exports", "q4_0", "--out", home / "out")  # fmt: skip
    said, found, made = capsys.readouterr().out, metrics(home / "out"), home / "out" / "model"
    assert "bits 4, group 32, symmetric True, tables 4" in said and "picture: " in said
    assert (home / "out" / "model.gguf").read_bytes().startswith(b"GGUF")
    assert found["bytes"] == (made / "model.safetensors").stat().st_size
    with pytest.raises(UserError, match="was changed by project14_ptq"):
        hub.load(made)
    model, words = _lab.load(made), tokenizer.load(made)
    judged = _lab.texts(words, 2, 64, _lab.HELD_OUT)
    assert _lab.perplexity(model, judged) == pytest.approx(found["perplexity"])
    assert found["perplexity"] != found["perplexity, before"] and found["times smaller"] > 2.5
    assert json.loads((made / "card.json").read_text())["method"] == "rtn"


def test_a_folder_is_served_like_any_other(home, folder, capsys):
    """By the table of all projects: the same text as in memory; and project 4's chat takes that table."""
    model = _lab.quantised(_lab.load(folder), [torch.arange(20)[None]], "gptq", 8, None, True, 8)
    hub.save(model, home / "q", tokenizer=tokenizer.load(folder))
    again = hub.load(home / "q", restore=restores.table())
    greedy = Sampling(max_tokens=8, temperature=0.0)
    texts = [generate(m.eval(), [[3, 5, 7]], greedy, eos_ids=())[0].ids for m in (model, again)]
    assert texts[0] == texts[1]
    assert "project14_ptq" in restores.table() and "project03_pretrain" not in restores.table()
    run(script, "smoke", "--model", home / "q", "--out", home / "out")
    assert "bits 8" in capsys.readouterr().out and metrics(home / "out")["tokens"] > 0


def test_smoke_generate(home, folder, capsys):
    """Floats and every kind of codes, side by side, and a picture."""
    run(script, "smoke", "--model", folder, "--out", home / "out")
    said, found = capsys.readouterr().out, metrics(home / "out")
    for name in ("floats", "8 bits", "8 bits, outliers in floats", "4 bits, nearest", "4 bits, GPTQ",
                 "8 bits, fastest kernels"):  # fmt: skip
        assert f"--- {name}: " in said and found[f"{name}: perplexity"] > 1
    assert found["floats: agree"] == 1 and found["4 bits, GPTQ: MB"] < 0.7 * found["floats: MB"]
    assert (home / "out" / "variants.png").read_bytes().startswith(b"\x89PNG")


def test_smoke_explore(home, folder, capsys):
    """Every experiment in small: its picture is there, and the breaks break."""
    run(explore, "smoke", "--model", folder, "--out", home / "out")
    pictures = {path.stem for path in (home / "out").glob("*.png")}
    assert pictures == set(explore.EXPERIMENTS) - {"text", "damaged"}
    found = metrics(home / "out")
    assert found["damaged: refused"] == found["damaged: tried"] == 6
    assert found["outliers: whole numbers alone, x60"] > 3 * abs(found["outliers: LLM.int8(), x60"])
    assert found["weights: zeros, one grid"] > found["weights: zeros, rows"]
    assert found["text: agree, floats"] == 1.0


def test_smoke_bench(home, tmp_path):
    """The whole bench in small: every claim is made, those that must hold are met, a GPU's are not run."""
    model_folder(home / "models" / "base", d_model=128, d_ff=128, n_layer=1, loud=4)
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(tmp_path)])
    claims = {claim["id"]: claim for claim in json.loads((tmp_path / "cpu.json").read_text())["claims"]}
    assert {name for name, claim in claims.items() if claim["verdict"] is None} >= set(_gpu.CLAIMS)
    for name in ("exact", "reference", "layers"):
        assert claims[name]["verdict"] == "met", name
    assert {"gptq-w4", "w8", "size-124m", "size-124m-tables8", "decode", "decode-int4"} <= set(claims)
    assert any(name.startswith("product-") for name in claims) and claims["gptq-w4"]["headline"]


def test_interval_of_two_increases():
    """The ratio of means lies inside, and it narrows where the texts agree."""
    base, theirs = [1.0] * 12, [1.2] * 12
    low, high = bench.interval([1.1] * 12, theirs, base)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)
    low, high = bench.interval([1.0, 1.2] * 6, theirs, base)
    assert low < 0.4 < 0.6 < high


def test_mistakes_of_a_user(home, folder, capsys):
    """One line each, before anything is computed."""
    for module, arguments, why in (
            (quantize, ("--method", "magic"), "no method is called 'magic'"),
            (quantize, ("--bits", "6"), "not 6"), (quantize, ("--windows", "0"), "calibration set is empty"),
            (quantize, ("--exports", "q4_0"), "needs --bits 4 --group 32 --tables 4"),
            (quantize, ("--exports", "safetensors"), "is no export"), (quantize, ("--tables", "5"), "not 5"),
            (quantize, ("--group", "7", "--model", folder), "groups of 7 do not divide"),
            (script, ("--prompt", ""), "the prompt is empty"), (explore, ("--parts", "film"), "called film"),
            (explore, ("--widths", "8", "7"), "not (8, 7)")):  # fmt: skip
        assert why in refused(capsys, module, "smoke", *arguments), why


# ---- the lesson ----


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 14 …` and `explore 14 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: torch's own layer in 8 bits gives what ours gives."""
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    pytest.importorskip("triton")  # one of the exercises is a kernel
    prove(__file__)
