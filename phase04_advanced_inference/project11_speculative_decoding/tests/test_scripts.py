"""The scripts, the lesson, and the proofs."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common import hub, tokenizer
from common.cli.bench import bench
from common.cli.paths import models
from common.model import GPT
from common.proofs import prove
from common.testing import tiny
from common.trial import commands, metrics, model_folder, refused, run, snippets
from data import corpora
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode
from phase04_advanced_inference.project11_speculative_decoding import _fit, _pair, explore, generate, train
from phase04_advanced_inference.project11_speculative_decoding import bench as bench_script
from phase04_advanced_inference.project11_speculative_decoding._pair import Counted, Pair, is_tie
from phase04_advanced_inference.project11_speculative_decoding.speculative import Draft

LESSON = Path(generate.__file__).parent / "README.md"


@pytest.fixture
def home(home):
    """A place of its own for runs, a tiny model with large weights, and a smaller one of the same words."""
    model_folder(home / "m", loud=8, max_seq_len=128)
    model_folder(home / "d", loud=8, max_seq_len=128, n_layer=1, d_model=16)
    return home


def test_smoke_generate(home, capsys):
    """Both texts, that they agree, tokens/s, how many guesses held, a picture; with each kind of guesser."""
    for how in ("model", "lookup"):
        run(generate, "smoke", "--model", "m", "--draft", "d", "--how", how, "--out", f"here-{how}")
        said = capsys.readouterr().out
        for words in ("one by one ---", "with guesses ---", "agree, token for token", "tokens/s", "MB"):
            assert words in said
        assert (home / f"here-{how}" / "rounds.png").read_bytes().startswith(b"\x89PNG")
    run(generate, "smoke", "--model", "m", "--draft", "d", "--temperature", 9.0, "--max_tokens", 40)
    assert "differ, as they may" in capsys.readouterr().out


def test_smoke_train(home, capsys):
    """A draft and heads are trained, saved, and found again, but only for the model they were trained for."""
    for kind in ("draft", "heads"):
        run(train, "smoke", "--model", "m", "--kind", kind, "--save", "--out", kind)
        assert (models() / kind / "card.json").is_file()
        assert 0 < metrics(home / kind)["val_loss"] < 20
    capsys.readouterr()
    pair = Pair("m", "", train.PRESETS["smoke"], torch.device("cpu"))
    assert pair.small.config.n_layer == 1 and len(pair.heads.layers) == 2
    assert "trained first" not in capsys.readouterr().out
    run(generate, "smoke", "--model", "m", "--how", "heads", "--out", "here")
    assert metrics(home / "here")["agree"] == 1
    torch.manual_seed(1)
    hub.save(GPT(tiny(vocab_size=260)), home / "other", tokenizer=tokenizer.load(home / "m"))
    other = Pair("other", "", train.PRESETS["smoke"], torch.device("cpu"))
    assert other.kept("draft") is None and other.kept("heads") is None


def test_smoke_explore(home, capsys):
    """Every experiment in small; what must hold in each of them holds."""
    run(explore, "smoke", "--model", "m", "--draft", "d", "--out", "here")
    found = metrics(home / "here")
    for part in ("drafts", "copy", "bonus"):
        assert found[f"{part}: same"] == found[f"{part}: of"] > 0
    assert found["stranger: same"] == found["rollback: same text, draft not rolled back"] == 1
    assert found["longest: p, exact"] > 1e-4 and 0 <= found["longest: p, longest match"] <= 1
    for name in ("rounds", "timeline", "k", "drafts", "copy", "batch", "longest"):
        assert (home / "here" / f"{name}.png").exists(), name


def test_smoke_bench(home, capsys):
    """Every claim is made, the sides agree, and what needs a GPU says so."""
    bench(bench_script.main, argv=["smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    for claim in ("speed", "formula", "formula-classic", "lookup", "controlled", "batch", "distribution"):
        assert f"\n{claim}: " in said, claim
    assert said.count("needs a CUDA device") == 1


def test_bad_input(home, capsys):
    assert "prompt is empty" in refused(capsys, generate, "smoke", "--prompt", "")
    assert "at least 1" in refused(capsys, generate, "smoke", "--k", 0)
    assert "temperature" in refused(capsys, generate, "smoke", "--temperature", -1)
    assert "context of 128" in refused(capsys, generate, "smoke", "--model", "m", "--prompt", "long " * 30)
    assert "no part is called" in refused(capsys, explore, "smoke", "--parts", "nothing")
    assert "at least 1" in refused(capsys, explore, "smoke", "--ks", 0)
    assert "at least 8" in refused(capsys, train, "smoke", "--context", 2)
    hub.save(GPT(tiny(vocab_size=97)), home / "strange")
    with pytest.raises(SystemExit):
        run(generate, "smoke", "--model", "m", "--draft", "strange")
    assert "tokenizer" in capsys.readouterr().err


# ---- what is counted ----


def test_acceptance_is_counted_per_guess_that_was_looked_at():
    """Of four guesses two hold, none, and all; then nobody guesses: 6 of 3 + 1 + 4 that were looked at."""

    verdicts = [[5, 6, 7], [1], [1, 2, 3, 4, 5], [9]]

    class Says(Draft):
        def verify(self, text, logits):
            return verdicts.pop(0)

    counted = Counted(Says())
    assert (counted.acceptance, counted.length) == (0, 1)
    for G in (4, 4, 4, 0):
        counted.verify(SimpleNamespace(guesses=[0] * G), None)
    assert (counted.acceptance, counted.length) == (6 / 8, 1 + 6 / 4)


def test_ties_are_forgiven_and_nothing_else():
    torch.manual_seed(0)
    model = GPT(tiny()).eval()
    with torch.no_grad():
        model.head.weight.mul_(50)
        best = [int(model(torch.tensor([[5, 7]]))[0, -1].argmax())]
    assert is_tie(model, [5, 7], best, best) and not is_tie(model, [5, 7], best, [(best[0] + 1) % 97])
    with torch.no_grad():
        model.head.weight.zero_()
    assert is_tie(model, [5, 7], [1], [2])


def test_what_a_draft_reads(home, monkeypatch):
    """Two corpora, mixed, about as long as asked for; the batch of a step is always the same."""
    words = tokenizer.load(home / "m")
    monkeypatch.setattr(corpora, "load", lambda name: "§" * 8_000)
    ids = _fit.read(words, "tinytown,python-manual", 8_000)
    assert ids.tolist().count("§".encode()[1]) == 2000  # one piece of 2,000 is an eighth and more
    assert 10_000 <= len(ids) < 20_000 and words.special["<|endoftext|>"] in ids.tolist()
    a, b = (_fit.batches(ids, 2, 16, "cpu")(5) for _ in range(2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[0][:, 1:], a[1][:, :-1])
    [(ids, again)] = _pair.Pair("m", "d", None, torch.device("cpu")).copying(1, 8, 12)
    assert ids[-8:] == ids[:8] and again == ids[8:20]


def test_what_a_draft_learns_is_what_the_model_writes(home):
    """Beginnings of pages, behind each what the model writes alone, greedily, up to its end."""
    model, words = hub.load(home / "m").double(), tokenizer.load(home / "m")
    said, end = [], words.special["<|endoftext|>"]
    with torch.no_grad():
        model.head.weight[end] += 0.5 * model.head.weight[60]  # some texts end
    config = train.Config(answers=70, new=20, corpus="tinytown")
    ids = _fit.own(model, words, config, torch.device("cpu"), said.append).tolist()
    prompts, ended = _fit.beginnings(words, "tinytown", 70, 5), 0
    assert len(set(map(len, prompts))) > 1 and max(map(len, prompts)) == 5
    for prompt in prompts:
        caches = caches_for(model, KVCache, 1, len(prompt) + 20)
        answer = decode(model, torch.tensor([prompt]), 20, caches)[0].tolist()
        ended += end in answer
        answer = answer[: answer.index(end) + 1] if end in answer else answer
        assert ids[: len(prompt) + len(answer)] == prompt + answer
        ids = ids[len(prompt) + len(answer) :]
    assert not ids and len(said) == 2 and 0 < ended < 70


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 11 …` and `explore 11 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    pytest.importorskip("transformers")
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
