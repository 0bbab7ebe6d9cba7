"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
from pathlib import Path

import pytest
import torch

from common import hub, tokenizer
from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.testing import close, trained
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase06_compression.project18_distillation import (
    _draft,
    _fit,
    _gpu,
    _heads,
    bench,
    explore,
    feature_kd,
    logit_kd,
    train,
)

LESSON = Path(train.__file__).parent / "README.md"


@pytest.fixture(autouse=True)
def chain(home):
    """As models/base and models/sft tiny models that have something to say."""
    for name, layers in (("base", 2), ("sft", 1)):
        model_folder(home / "models" / name, n_layer=layers, loud=6, max_seq_len=128)
    return home / "models"


def test_smoke_train(home, capsys):
    """Both students, the third as long, the table, the gap by its formula, a folder that loads, a picture."""
    run(train, "smoke", "--out", home / "out", "--save", "--clock")
    said, found = capsys.readouterr().out, metrics(home / "out")
    assert "gap closed = (alone - distilled) / (alone - teacher)" in said
    assert "distilled writes:" in said and "saved:" in said
    for side in ("teacher", "alone", "alone, as long", "distilled"):
        figures = ("loss", "accuracy", "agreement", "overlap", "kl")
        assert {f"{side}: {key}" for key in figures} <= found.keys()
        assert found[f"{side}: tokens_per_s"] > 0 and 0 <= found[f"{side}: overlap"] <= 1
    assert found["teacher: kl"] == pytest.approx(0, abs=1e-5) and found["teacher: agreement"] == 1
    alone, made, teacher = (found[f"{side}: loss"] for side in ("alone", "distilled", "teacher"))
    assert found["gap closed"] == pytest.approx((alone - made) / (alone - teacher))
    model = hub.load(home / "models" / "student")
    assert _fit.weights(model) == found["distilled: weights"] < found["teacher: weights"]
    assert (home / "out" / "distillation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("how", ["logit", "policy", "task", "said"])
def test_smoke_train_of_each_kind(home, capsys, how):
    """Every way to learn from a teacher ends with a student, and none of them is the one alone."""
    few = ("--drafts", "0", "--steps", "2", "--context", "40" if how in ("logit", "policy") else "100")
    if how == "said":  # this teacher has no right answer to give
        assert "answered none of" in refused(capsys, train, "smoke", "--how", how, *few)
        return
    run(train, "smoke", "--how", how, "--out", home / "out", *few)
    found = metrics(home / "out")
    assert found["distilled: loss"] != found["alone: loss"]
    assert ("distilled: right" in found) == (how == "task")


def test_smoke_train_by_several_teachers(home):
    """Another folder as a second teacher, by confidence; and a student to go on from."""
    run(train, "smoke", "--how", "logit", "--out", home / "a", "--others", home / "models" / "sft",
        "--weights", "confidence", "--drafts", "0", "--steps", "2")  # fmt: skip
    again = ("--student", home / "a" / "model", "--drafts", "0", "--steps", "1")
    run(train, "smoke", "--out", home / "b", *again)
    assert metrics(home / "b")["distilled: weights"] == metrics(home / "a")["distilled: weights"]


def test_is_on_in_the_script(home):
    """A loss that raises makes the script fail: it really uses what the learner wrote."""
    for function, how in ((feature_kd.relation_loss, "feature"), (logit_kd.soft_loss, "logit")):
        with unplugged(function):
            run(train, "smoke", "--drafts", "0", "--how", how, "--out", home / how)


def test_smoke_explore(home):
    """Every experiment in small; what must hold holds, and the breaks break."""
    run(explore, "smoke", "--out", home / "out")
    found = metrics(home / "out")
    assert {path.stem for path in (home / "out").glob("*.png")} == set(explore.EXPERIMENTS)
    assert found["relations: teacher"] == 0 < found["relations: student alone"]
    assert abs(found["directions: reverse, KL(q ‖ p), centre"] - 8) < 1
    assert found["directions: forward, KL(p ‖ q), width"] > 3 * found["directions: reverse, KL(q ‖ p), width"]
    assert found["factor: without, 16"] < found["factor: with T², 16"]
    assert found["teachers: pages, mean"] <= max(found["teachers: pages, of pages"],
                                                 found["teachers: pages, of answers"]) + 1e-6  # fmt: skip
    assert found["tokenizers: from another tokenizer"] != found["tokenizers: by logits"]
    assert found["decomposition: kl last"] > 0


@pytest.mark.parametrize("part", ["agreement", "relations", "policy", "teacher"])
def test_a_part_trains_what_it_needs(home, part):
    """Alone, a part makes the students that the parts before it would have left."""
    run(explore, "smoke", "--parts", part, "--out", home / "out")
    assert (home / "out" / f"{part}.png").exists()


def test_smoke_bench(home):
    """Every claim is made; what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert list(claims) == [
        "gap", "clock", "logits", "accuracy", "draft-drawn", "draft-greedy", "speed", "update", "task",
        "memory", "time", "gpu-gap", "gpu-liger", "gpu-memory"]  # fmt: skip
    assert claims["gap"]["headline"] and claims["update"]["prediction"] > 1
    assert claims["memory"]["ratio"] < 1
    assert all(claims[id]["verdict"] is None for id in _gpu.CLAIMS)


def test_bad_input(home, capsys, chain):
    """One line each, that says what is wrong."""
    assert "there is no folder" in refused(capsys, train, "smoke", "--model", "./nowhere")
    assert "take the larger one" in refused(capsys, train, "smoke", "--d_model", 128, "--n_layer", 3)
    assert "temperature is 0" in refused(capsys, train, "smoke", "--temperature", 0)
    assert "alpha is 2" in refused(capsys, train, "smoke", "--alpha", 2)
    assert "longer than the 128 tokens" in refused(capsys, train, "smoke", "--context", 150)
    assert "at least 1" in refused(capsys, train, "smoke", "--steps", 0)
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    file = chain / "sft" / "tokenizer.json"
    text = file.read_text("utf-8").replace('"A":', '"\\u0000":').replace('"B":', '"A":')
    file.write_text(text.replace('"\\u0000":', '"B":'), "utf-8")
    assert "by their logits" in refused(capsys, train, "smoke", "--others", chain / "sft")
    others = "--how", "logit", "--others", chain / "sft"
    assert "different tokenizers" in refused(capsys, train, "smoke", *others)
    assert "different tokenizers" in refused(capsys, train, "smoke", "--student", chain / "sft")


# ---- the student as a draft ----


def test_a_draft_is_kept_as_often_as_it_agrees():
    """The teacher as its own draft: every guess is kept; the text is the teacher's, whoever guesses."""
    teacher, other = trained(n_layer=1), trained(steps=10, seed=1, n_layer=1)
    prompts = [[3, 5, 7, 9], [4, 5, 6, 7]]
    same = _draft.accepted(teacher, teacher, prompts, 20, temperature=0.0)
    mixed = _draft.accepted(teacher, other, prompts, 20, temperature=0.0)
    assert same["accepted"] == 1 and same["a round"] > 4 and mixed["accepted"] < 1
    assert same["new ids"] == mixed["new ids"]


def test_beside_by_hand(home):
    """A model beside itself shares all; its loss is that of its logits; the interval is Student's."""
    folder = model_folder(home / "m", loud=6)
    model = hub.load(folder)
    town = _fit.Town(tokenizer.load(folder), 200, 120, torch.device("cpu"))
    found = _fit.beside(model, model, town.windows(24))
    assert found["agreement"] == 1 and found["overlap"] == pytest.approx(1, abs=1e-5)
    assert found["loss"] == pytest.approx(town.loss(model, 24), rel=1e-5)
    low, high = _fit.interval([0.3, 0.4, 0.5])
    assert (low + high) / 2 == pytest.approx(0.4) and high - low == pytest.approx(2 * 4.303 * 0.1 / 3**0.5)
    assert _fit.interval([0.3]) is None


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 18 …` and `explore 18 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 8


@pytest.mark.slow
def test_heads_match_liger():
    """The bench's two sides and Liger's chunks, uncompiled, have the same gradients."""
    pytest.importorskip("liger_kernel")
    heads = _heads.Heads(37, 16, 24, 300, 8, "cpu")
    for ours, mine, theirs in zip(heads.at_once(), heads.in_chunks(), heads.liger(False)(), strict=True):
        close(mine, ours, "in chunks")
        close(theirs, ours, "Liger")


@pytest.mark.slow  # trl takes its time to import
def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: TRL's loss is ours."""
    pytest.importorskip("trl")
    (left,) = snippets(LESSON)
    assert torch.allclose(left["ours"], left["theirs"], rtol=1e-4)


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
