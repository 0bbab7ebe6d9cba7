"""The project as a whole: scripts, the lesson's commands and snippet, training, the proofs."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from common import hub
from common.cli.bench import bench as run_bench
from common.model import GPT, set_attend
from common.proofs import prove
from common.testing import tiny
from common.trial import commands, metrics, model_folder, refused, run, snippets
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase07_architecture.project20_sparse_attention import (
    _gpu,
    _long,
    _passkey,
    _see,
    _sides,
    bench,
    explore,
    learned,
    rope_scaling,
    train,
)

LESSON = Path(train.__file__).parent / "README.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model that reads bytes."""
    return model_folder(tmp_path_factory.mktemp("models") / "m", n_layer=1, max_seq_len=64, head_dim=16)


def test_smoke_train(home, model, capsys):
    """A context twice as long, trained for two updates, saved, and loaded again by who knows how."""
    run(train, "smoke", "--model", model, "--out", home / "out")
    said, found = capsys.readouterr().out, metrics(home / "out")
    assert {"as it was: within", "yarn: beyond", "yarn, trained: found"} <= set(found)
    assert (home / "out" / "long.png").read_bytes().startswith(b"\x89PNG") and "of the facts found" in said
    restore = {"project20_sparse_attention": rope_scaling.restore}
    again = hub.load(home / "out" / "model", restore=restore)
    assert again.config.max_seq_len == 128 and type(again.rope) is rope_scaling.ScaledRope


def test_smoke_train_through_a_pattern(home, model, capsys):
    run(train, "smoke", "--model", model, "--out", home / "out", "--pattern", "fixed", "--steps", "1")
    assert "fixed" in capsys.readouterr().out


def test_smoke_explore(home, model, capsys):
    """Every experiment in small: its picture is there, and the figures are what counting gives."""
    run(explore, "smoke", "--model", model, "--out", home / "out")
    assert {path.stem for path in (home / "out").glob("*.png")} == set(explore.EXPERIMENTS)
    found = metrics(home / "out")
    assert found["masks: all that came before"] == pytest.approx(1.0) and found["masks: window"] < 0.9
    assert found["reach: strided, 2"] == pytest.approx(1.0) and found["reach: window, 2"] < 0.9
    assert found["comb: strided, by step"] < found["comb: strided, in order"]
    assert found["routing: best, 1"] >= max(found[f"routing: {kind}, 1"] for kind in ("routed", "random"))


def test_smoke_bench(tmp_path, home, capsys, monkeypatch, model):
    """The whole bench in small: every claim is made, and what needs a GPU or a long training says so."""
    monkeypatch.setattr(bench.chain, "find", lambda *a, **k: model)
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(tmp_path)])
    claims = {claim["id"]: claim for claim in json.loads((tmp_path / "cpu.json").read_text())["claims"]}
    assert {"slope-fixed", "slope-strided", "slope-window", "slope-dense", "time-fixed", "time-window",
            "decode", "memory", "error", "context-yarn", "needles", "routing",
            "passkey-fixed"} <= set(claims)  # fmt: skip
    not_run = {name for name, claim in claims.items() if claim["verdict"] is None}
    assert not_run == {*(name for name, *_ in _gpu.CLAIMS), _gpu.SLOPE[0], "needles"}
    assert claims["error"]["verdict"] == "met"


def test_mistakes_of_a_user(capsys):
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "no pattern 'star'" in refused(capsys, train, "smoke", "--pattern", "star")
    assert "below" not in refused(capsys, train, "smoke", "--steps", "0")


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 20 …` and `explore 20 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 5


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: FlexAttention and SDPA with a mask give what ours gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FlexAttention would rather be compiled
        assert len(snippets(LESSON)) == 1


# ---- what the scripts build on ----

def test_slope_is_a_power():
    assert _sides.slope([10, 20, 40], [3 * n**1.5 for n in (10, 20, 40)]) == pytest.approx(1.5)


def test_a_row_holds_its_facts_and_asks_for_them(model):
    """The document first, then each sentence again; the answers are marked, and stand in the document too."""
    from common import tokenizer as tokenizers
    tokenizer = tokenizers.load(model)
    row = _long.Chronicles(tokenizer, 1400).row(3)
    assert len(row.ids) == 1401 and len(row.depths) == 5
    asked = {i: tokenizer.decode(row.ids[row.answers == i].tolist()) for i in range(5)}
    assert any(asked.values())  # bytes are many: not all questions fit
    first = int((row.answers >= 0).nonzero()[0])
    told = tokenizer.decode(row.ids[:first].tolist())
    full = [text for i, text in asked.items() if text and int((row.answers == i).nonzero()[-1]) < 1400]
    assert all(text.strip() in told for text in full)


def test_collapse_is_where_the_loss_leaves():
    losses = torch.cat((torch.full((64,), 2.0), torch.full((32,), 2.2), torch.full((32,), 5.0)))
    assert _long.collapse(losses, 64, 16) == 96 and _long.collapse(losses[:96], 64, 16) is None
    losses[32:48] = 9.0  # one hard sentence
    assert _long.collapse(losses[:96], 64, 16) is None


def test_mass_of_all_blocks_is_one():
    """All earlier blocks hold all of the attention outside the own one; none of them holds none."""
    q, k = (torch.randn(1, n, 24, 8, generator=torch.Generator().manual_seed(n)) for n in (2, 1))
    every = learned.choose(q, k, torch.arange(24)[None], 4, 99)
    none = torch.zeros_like(every)
    assert _see.mass(q, k, every, 4).allclose(torch.ones(1)) and _see.mass(q, k, none, 4).eq(0).all()
    best, *rest = (_see.mass(q, k, _see.others(kind, q, k, 4, 3), 4).mean()
                   for kind in ("best", "random", "nearest"))  # fmt: skip
    assert best > max(rest)


def test_a_digit_is_where_it_was_put():
    x, digits = _passkey.tokens(5, 20, 0, depth=0.5)
    assert torch.equal(x[:, 9], _passkey.NOISE + digits) and x[:, -1].eq(_passkey.ASK).all()
    assert ((x >= _passkey.NOISE) & (x < _passkey.ASK)).sum() == 5


@pytest.mark.parametrize("name", ["window", "fixed", "strided", "routed"])
def test_written_out_it_is_the_same(name):
    """What the small models learn through is what they are judged through."""
    fn, given = _sides.attend_of(name, 30, 8), _sides.inputs(2, 30, 16)
    got = _passkey.written(fn)(*given, positions=torch.arange(30))
    torch.testing.assert_close(got, fn(*given, positions=torch.arange(30)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["window", "fixed", "routed"])
def test_trains_in_the_trainer(name, tmp_path):
    """Project 3's objective in the course's loop: the loss falls through every kind of attention."""
    from common.recipe import TrainConfig
    from common.training import train as loop
    torch.manual_seed(0)
    objective = CausalLM(set_attend(GPT(tiny()), _sides.attend_of(name, 24, 8)))
    tokens = (torch.arange(25) * 3 % 97)[None].repeat(4, 1)
    history = loop(objective, lambda i: (tokens[:, :-1], tokens[:, 1:]), folder=tmp_path / name,
                   config=TrainConfig(steps=12, learning_rate=1e-2, log_every=1, eval_every=12,
                                      save_every=12),
                   say=lambda text: None)  # fmt: skip
    losses = history.series("loss")[1]
    assert losses[-1] < losses[0] - 0.2


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    pytest.importorskip("triton")  # one of the exercises is a kernel
    prove(__file__)
