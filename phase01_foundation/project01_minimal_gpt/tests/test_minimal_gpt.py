"""The project as a whole: its proofs, its scripts, its technique in use, and what happens to bad input."""

import json
from pathlib import Path

import pytest
import torch

from common.proofs import prove
from common.trial import commands, refused, run, snippets, unplugged
from phase01_foundation.project01_minimal_gpt import (
    attention,
    bench,
    explore,
    fast,
    generate,
    gpt,
    layers,
    positions,
    text,
    train,
)

TEXT = "to be or not to be, that is the question.\n" * 40


@pytest.fixture
def home(home):
    """A place of its own for runs, and a small text as the corpus."""
    (home / "own.txt").write_text(TEXT, encoding="utf-8")
    return home


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)


IN_TRAIN = (attention.hide_future, attention.attend, attention.split_heads, attention.merge_heads,
            attention.Attention.forward, gpt.FeedForward.forward, gpt.Block.forward, gpt.GPT.forward,
            gpt.loss, gpt.top_k, gpt.top_p, gpt.pick, gpt.generate)  # fmt: skip


IN_EXPLORE = (positions.sinusoids, positions.rope_angles, positions.rotate, positions.alibi_slopes,
              positions.alibi, layers.LayerNorm.forward, layers.RMSNorm.forward, layers.gelu,
              layers.SwiGLU.forward)  # fmt: skip


@pytest.mark.parametrize("part", IN_TRAIN, ids=lambda part: part.__qualname__)
def test_is_on(part, home):
    """A technique that raises makes the training run fail: the run really uses what the learner wrote."""
    with unplugged(part):
        run(train, "smoke", "--corpus", home / "own.txt", "--steps", 1)


@pytest.mark.parametrize("part", IN_EXPLORE, ids=lambda part: part.__qualname__)
def test_is_on_in_the_ablations(part, home):
    """The same for the parts that the ablations train with."""
    with unplugged(part):
        run(explore, "smoke", "--corpus", home / "own.txt", "--parts", "ablations", "--steps", 1)


def test_smoke(home, capsys):
    """Train, then generate: files, samples, picture, verdict; a second run gets a folder of its own."""
    run(train, "smoke", "--corpus", home / "own.txt", "--steps", 30)
    folder = home / "runs" / "project01_minimal_gpt" / "smoke"
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["val_loss"] < 3
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    pages = sorted(page.name for page in (folder / "samples").iterdir())
    assert pages == ["step_00000.txt", "step_00030.txt"]
    said = capsys.readouterr().out
    assert "what it writes now" in said and "loss.png" in said and "expected" in said
    run(generate, "smoke", "--prompt", "to be", "--seed", 3)
    assert "\nto be" in capsys.readouterr().out
    run(train, "smoke", "--corpus", home / "own.txt", "--steps", 30)
    assert (folder.with_name("smoke-2") / "result.json").exists()


@pytest.fixture
def tiny(home, monkeypatch):
    """A smoke preset that trains in no time, on a text of its own."""
    sizes = {"n_layer": 1, "n_head": 2, "d_model": 16, "context": 16, "steps": 2}
    for one in (train, fast):
        monkeypatch.setitem(one.PRESETS, "smoke", one.Config(corpus=str(home / "own.txt"), **sizes))
    return home


def test_smoke_of_explore(tiny, capsys):
    """Every experiment, each with its picture; without a finished run it trains a model first."""
    run(explore, "smoke", "--corpus", tiny / "own.txt")
    folder = tiny / "runs" / "project01_minimal_gpt" / "explore-smoke"
    names = ["ablations.png", "head.png", "heads.png", "mask.png", "order.png", "positions.gif", "qkv.png",
             "sampling.png", "start.png"]  # fmt: skip
    assert sorted(path.name for path in folder.glob("*.*g*") if path.suffix in (".png", ".gif")) == names
    assert "training one first" in capsys.readouterr().out
    found = json.loads((folder / "result.json").read_text())["metrics"]
    kept = {"mask: corpus_unmasked", "qkv: trained_q ↔ k", "ablations: norm: none, seed 0"}
    assert kept <= found.keys()


def test_smoke_of_fast(tiny):
    """The race car: common's model, Muon for the matrices in its blocks and AdamW for the rest."""
    run(fast, "smoke")
    assert (tiny / "runs" / "project01_minimal_gpt" / "fast-smoke" / "result.json").exists()
    objective = train.Surprise(fast.build(fast.PRESETS["smoke"], 9, "cpu"))
    muon, adamw = fast.optimizers(objective, fast.PRESETS["smoke"])
    moved = [weight for one in (muon, adamw) for group in one.param_groups for weight in group["params"]]
    assert sorted(map(id, moved)) == sorted(map(id, objective.parameters()))  # each weight once
    assert all(weight.dim() == 2 for weight in muon.param_groups[0]["params"])


@pytest.mark.slow
def test_smoke_of_bench(home, capsys, monkeypatch):
    """Without the rival its rows say so, and the bench ends well."""
    monkeypatch.delenv("THIRTY_RIVALS", raising=False)
    bench.bench(bench.main, bench.profiled, ["smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    assert said.count("not run: nanoGPT is not in $THIRTY_RIVALS") == 3
    assert "smoke: nothing was written" in said


def test_rival_is_run_in_a_copy(tmp_path):
    """A checkout that only pretends is copied, given our text, prepared, run with the recipe, and read."""
    fake = tmp_path / "fake"
    (fake / "data" / "shakespeare_char").mkdir(parents=True)
    (fake / "data" / "shakespeare_char" / "prepare.py").write_text("open('prepared', 'w').close()")
    (fake / "train.py").write_text(
        "import sys; open('prepared')\n"
        "print('step 0: train loss 4.1, val loss 4.2\\nstep 40: train loss 2.1, val loss 2.25')\n"
        "print(sys.argv, file=open('arguments', 'w'))")
    rival = bench.NanoGPT(fake, tmp_path, "our text", bench.RECIPES["cpu"], steps=40)
    assert rival.train() == 2.25
    assert (rival.folder / "data" / "shakespeare_char" / "input.txt").read_text() == "our text"
    assert "'--max_iters=40'" in (rival.folder / "arguments").read_text()
    assert rival.loss(7) == 2.25
    assert "'--eval_iters=7'" in (rival.folder / "arguments").read_text()
    assert not (fake / "prepared").exists()


LESSON = Path(bench.__file__).with_name("README.md")


def test_commands_of_the_lesson_are_understood():
    """Every `./thirty run 1 …` and `explore 1 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 12


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is run as it stands."""
    pytest.importorskip("transformers")
    (names,) = snippets(LESSON)
    q, k, v = names["q"], names["k"], names["v"]
    torch.testing.assert_close(names["y"], attention.attend(q, k, v)[0])
    assert names["text"].shape == (1, 30)


def test_generate_without_a_run_trains_a_tiny_one(tiny, capsys):
    """Nothing trained yet: it says so, trains, and writes."""
    run(generate, "smoke", "--length", 5)
    assert "no finished run yet" in capsys.readouterr().out


def test_saved_model_writes_the_same(tmp_path):
    """Saved and loaded, a model gives the same text."""
    characters = text.Characters(TEXT)
    model = train.build(train.PRESETS["smoke"], len(characters), "cpu").eval()
    train.save(model, characters, tmp_path / "gpt.safetensors")
    again, same = generate.load(tmp_path)
    assert same.symbols == characters.symbols
    assert text.complete(again, same, "to", 20) == text.complete(model, characters, "to", 20)


class TestText:
    def test_round_trip(self):
        characters = text.Characters("hello, world")
        assert characters.decode(characters.encode("hello")) == "hello"
        assert len(characters) == 9

    def test_split_is_nine_to_one(self):
        _, train_ids, val_ids = text.split("ab" * 500, context=8)
        assert (len(train_ids), len(val_ids)) == (900, 100)

    def test_batches_are_windows_of_the_text(self):
        ids = torch.arange(100)
        inputs, targets = text.batch(ids, context=7, size=2000, seed=1)
        assert torch.equal(targets, inputs + 1)
        assert torch.equal(inputs, inputs[:, :1] + torch.arange(7))
        assert inputs.min() == 0 and targets.max() == 99  # both ends are reached
        assert torch.equal(text.batch(ids, 7, 2000, seed=1)[0], inputs)
        assert not torch.equal(text.batch(ids, 7, 2000, seed=2)[0], inputs)

    def test_split_loss_counts_each_token_once(self):
        """The loss over windows of one context is the mean over their tokens, worked out window by window."""
        model = train.build(train.PRESETS["smoke"], 5, "cpu").eval()
        ids = torch.randint(5, (32 * 7 + 9,), generator=torch.Generator().manual_seed(0))
        windows = [ids[i : i + 33][None] for i in range(0, 224, 32)]
        each = [gpt.loss(model(w[:, :-1]), w[:, 1:]).item() for w in windows]
        assert text.split_loss(model, ids) == pytest.approx(sum(each) / 7, abs=1e-6)
        spread = (each[0] + each[3] + each[6]) / 3
        assert text.split_loss(model, ids, most=3) == pytest.approx(spread, abs=1e-6)


class TestBadInput:
    def test_corpus_too_short(self, home, capsys):
        (home / "short.txt").write_text("only a few words")
        assert "16 characters" in refused(capsys, train, "smoke", "--corpus", home / "short.txt")

    def test_empty_corpus(self, home, capsys):
        (home / "empty.txt").write_text("")
        assert "0 characters" in refused(capsys, train, "smoke", "--corpus", home / "empty.txt")

    def test_one_character_only(self, home, capsys):
        (home / "a.txt").write_text("a" * 5000)
        assert "one character only" in refused(capsys, train, "smoke", "--corpus", home / "a.txt")

    def test_not_utf8(self, home, capsys):
        (home / "latin.txt").write_bytes("naïve café".encode("latin-1") * 500)
        assert "not UTF-8" in refused(capsys, train, "smoke", "--corpus", home / "latin.txt")

    def test_no_such_file_or_corpus(self, home, capsys):
        assert "cannot be read" in refused(capsys, train, "smoke", "--corpus", home / "gone.txt")
        assert "did you mean 'shakespeare'" in refused(capsys, train, "smoke", "--corpus", "shakespear")

    def test_impossible_sizes(self, home, capsys):
        own = home / "own.txt"
        assert "n_head" in refused(capsys, train, "smoke", "--corpus", own, "--n_head", 5)
        assert "learning_rate" in refused(capsys, train, "smoke", "--corpus", own, "--learning_rate", -1)
        assert "batch_size" in refused(capsys, train, "smoke", "--corpus", own, "--batch_size", 0)

    @pytest.mark.parametrize("field, value", [("temperature", -1), ("temperature", "nan"), ("top_k", -2),
                                              ("top_p", 0), ("top_p", 1.5), ("length", 0)])  # fmt: skip
    def test_impossible_sampling(self, home, capsys, field, value):
        assert field in refused(capsys, generate, "smoke", f"--{field}={value}")

    def test_prompt_with_characters_never_seen(self, home, capsys):
        characters = text.Characters(TEXT)
        model = train.build(train.PRESETS["smoke"], len(characters), "cpu")
        train.save(model, characters, home / "gpt.safetensors")
        said = refused(capsys, generate, "smoke", "--prompt", "to € or", "--run_folder", home)
        assert "never seen '€'" in said

    def test_folder_without_a_model(self, home, capsys):
        assert "gpt.safetensors" in refused(capsys, generate, "smoke", "--run_folder", home)
