"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
import math
from pathlib import Path

import pytest
import torch

from common import hub
from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.testing import trained
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase09_compiler.project27_early_exit import (
    _break,
    _fit,
    _model,
    bench,
    explore,
    generate,
    kv_fill,
    train,
)
from phase09_compiler.project27_early_exit.exit_loss import ExitLoss
from phase09_compiler.project27_early_exit.exits import Rule, Sure, restore
from phase09_compiler.project27_early_exit.kv_fill import Lagging

LESSON = Path(train.__file__).parent / "README.md"


@pytest.fixture(autouse=True)
def base(home):
    """As models/base a tiny model that has something to say."""
    return model_folder(home / "models" / "base", n_layer=4, loud=6, max_seq_len=128)


def test_smoke_train(home, capsys):
    """The twin, each way out, certified thresholds, a picture, a folder that loads, and is found again."""
    run(train, "smoke", "--out", home / "out", "--save")
    said, found = capsys.readouterr().out, metrics(home / "out")
    for words in ("after 3 blocks:", "at the top: base", "twin", "probe", "saved:"):
        assert words in said
    assert found["after 4: same"] == 1 and 0 <= found["after 1: same"] <= 1
    for measure in ("probe", "confidence", "margin", "certainty"):
        assert 1 <= found[f"{measure}: depth"] <= 4
    model = hub.load(home / "models" / "early", restore=_model.RESTORE)
    assert model.exits.layers == (1, 2, 3) and len(model.blocks) == 4
    assert (home / "out" / "exits.png").read_bytes().startswith(b"\x89PNG")
    source = _model.Source("", train.PRESETS["smoke"], torch.device("cpu"))
    same = zip(source.early.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same) and "trained first" not in capsys.readouterr().out
    hub.save(trained(steps=1).float(), home / "other")
    assert _model.origin(home / "other") != _model.origin(source.place)


def test_smoke_generate(home, capsys):
    """Both texts, where they part, tokens/s, blocks a token, a picture; and guesses, which change nothing."""
    run(generate, "smoke", "--out", home / "a", "--threshold", "0.0")
    said = capsys.readouterr().out
    for words in ("--- to the top ---", "--- early ---", "1.00 of 4 blocks", "tokens/s", "MB"):
        assert words in said
    assert (home / "a" / "depths.png").read_bytes().startswith(b"\x89PNG") and metrics(home / "a")[
        "mean"
    ] == 1
    run(generate, "smoke", "--out", home / "b", "--how", "speculate")
    assert metrics(home / "b")["same"] == 1 and "agree, token for token" in capsys.readouterr().out
    run(generate, "smoke", "--measure", "patience", "--threshold", "9", "--out", home / "c")
    assert metrics(home / "c")["mean"] == 4 and metrics(home / "c")["same"] == 1


def test_is_on_in_the_script():
    """A cache that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(kv_fill.Lagging.catch_up):
        run(generate, "smoke")


def test_smoke_explore(home):
    """Every experiment in small; what must hold holds."""
    run(explore, "smoke", "--out", home / "out")
    found = metrics(home / "out")
    assert {path.stem for path in (home / "out").glob("*.png")} == set(explore.EXPERIMENTS)
    assert found["curve: patience 3, depth"] >= found["curve: patience 1, depth"] == 1
    assert found["fill: recomputed"] == pytest.approx(found["fill: nobody left"], abs=1e-4)
    assert abs(found["fill: nothing"] - found["fill: nobody left"]) > 1e-4
    assert found["prune: by chance, 1"] == pytest.approx(found["prune: the latest, 1"], abs=1e-5)


def test_smoke_bench(home):
    """Every claim is made; what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert list(claims) == ["speed", "formula", "quality", "lossless", "formula-lossless", "transformers",
                            "twin", "promise", "batch", "pruning", "pruning-quality", "h200"]  # fmt: skip
    assert claims["speed"]["headline"] and claims["h200"]["verdict"] is None
    assert claims["lossless"]["settings"]["tokens a round"] >= 1


def test_bad_input(home, capsys):
    assert "no room for these ways out" in refused(capsys, train, "smoke", "--exits", 7)
    assert "name at least one" in refused(capsys, train, "smoke", "--exits")
    assert "longer than the 128" in refused(capsys, train, "smoke", "--context", 200)
    assert "more tokens than one context" in refused(capsys, train, "smoke", "--judged", 10)
    assert "at least 1" in refused(capsys, train, "smoke", "--steps", 0)
    assert "prompt is empty" in refused(capsys, generate, "smoke", "--prompt", "")
    assert "patience counts" in refused(capsys, generate, "smoke", "--measure", "patience")
    assert "no way out after 9" in refused(capsys, generate, "smoke", "--how", "speculate", "--n", 9)
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "a share" in refused(capsys, explore, "smoke", "--leaving", 2)


# ---- what is counted ----


def test_quality_by_hand():
    """Windows of a text: nats of both, tokens that agree, blocks; nobody leaves: no difference at all."""
    model = restore(trained(n_layer=2, steps=40).float(), (1,))
    ids = torch.randint(32, (61,), generator=torch.Generator().manual_seed(0))
    found = _model.quality(model, ids, Rule(), 12)
    windows = ids.unfold(0, 13, 12)
    nats = torch.nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    assert found["full"] == pytest.approx(nats.item(), rel=1e-5) and found["perplexity"] == pytest.approx(1)
    assert (found["same"], found["depth"], len(found["by window"])) == (1, 2, 5)
    out = _model.quality(model, ids, Sure("confidence", 0.0), 12)
    assert out["depth"] == 1 and out["perplexity"] == pytest.approx(math.exp(out["loss"] - out["full"]))


def test_a_page_is_read_as_a_whole():
    """Token by token and in one forward: the same nats; recomputed keys are those of nobody having left."""
    model = restore(trained(n_layer=3, steps=40), (1, 2))
    ids = torch.randint(32, (20,), generator=torch.Generator().manual_seed(1))
    nats, said, left = _model.read_on(Lagging(model, 1, 20), ids, 6, Rule())
    with torch.no_grad():
        logits = model(ids[None])[0, 5:19]
    assert nats == pytest.approx(torch.nn.functional.cross_entropy(logits, ids[6:]).item())
    assert said == logits.argmax(-1).tolist() and left == [3] * 13
    dice = _break.Some(0.5).start()
    again, stayed = _break.climbers(None, _break.Recomputed(model, 1, 20), ids, 6, dice)
    plain, _ = _break.climbers(None, Lagging(model, 1, 20), ids, 6, _break.Some(0.5).start(), Rule())
    assert again == pytest.approx(plain, abs=1e-9) and 2 < len(stayed) < 12


def test_ways_out_learn_faster():
    """Each parameter once, those of the ways out at four times the rate; the twin has one rate."""
    model = restore(trained(n_layer=2, steps=1).float(), (1,))
    plan = _fit.Plan(learning_rate=1e-3)
    config = plan.train_config(torch.device("cpu"))
    groups = plan.optimizer(ExitLoss(model), config).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(4e-3 if name.startswith("exits.") else 1e-3), name


def test_acceptance_from_tokens_a_round():
    assert bench.acceptance(1 + 0.6 + 0.36, 2) == pytest.approx(0.6) and bench.acceptance(1.0, 3) < 1e-9


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 27 …` and `explore 27 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    pytest.importorskip("transformers")
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
