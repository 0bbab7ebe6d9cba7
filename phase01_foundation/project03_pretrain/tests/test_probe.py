"""From text to token files, what a model knows, and the report: each by itself."""

import numpy as np
import pytest
import torch

from common import tokenizer as tokenizers
from common.model import GPT
from common.testing import tiny
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import _report, _text, probe, train

OWN = train.Config(corpus="own.txt", characters=0, vocab_size=270)


def prepared(home):
    """The text of `own.txt`, with a tokenizer learned from it."""
    return train.prepare(OWN, home, lambda line: None)


# ---- text ----


class TestText:
    def test_held_out_documents_are_not_trained_on(self, home):
        """The two token files share no document; together they are the text."""
        text = prepared(home)
        parts = [
            set(text.tokenizer.decode(file.tokens).split("<|endoftext|>"))
            for file in (text.train, text.valid)
        ]
        assert not parts[0] & parts[1] - {""}
        assert sum(len(d) for part in parts for d in part) == len((home / "own.txt").read_text())

    def test_pieces_are_the_text(self):
        """A running text, however it arrives, is cut at the ends of lines and nothing is lost."""
        lines = [f"line {i} {'x' * (i % 40)}\n" for i in range(3000)]
        for parts in (["".join(lines)], lines):
            pieces = list(_text.in_pieces(parts, size=500))
            assert "".join(pieces) == "".join(lines)
            assert all(p.endswith("\n") and len(p) <= 1000 for p in pieces)
        assert list(_text.in_pieces(["x" * 2500], size=500)) == ["x" * 500] * 3 + ["x" * 1000]

    def test_token_files_are_made_once(self, home):
        """The same text and tokenizer: the same files. Another text or tokenizer: others."""
        text = prepared(home)
        stamp = text.train.path.stat().st_mtime_ns
        assert prepared(home).train.path.stat().st_mtime_ns == stamp
        (home / "own.txt").write_text((home / "own.txt").read_text() + "more.\n")
        assert prepared(home).train.path != text.train.path

    def test_a_folder_of_mixed_files(self, home):
        """`--corpus FOLDER` reads what is text in it."""
        folder = home / "mixed"
        folder.mkdir()
        for i in range(60):
            (folder / f"{i}.md").write_text(f"# Page {i}\n\nthe cat {i}\n")
        (folder / "page.html").write_text("<html><p>the dog</p><script>no()</script></html>")
        found = [text for text, _ in _text.documents(str(folder), 0, say=lambda line: None)]
        assert len("".join(found)) > 900 and "the dog" in "".join(found) and "no()" not in "".join(found)


# ---- what is said at the end ----


class TestProbe:
    def test_surprise_is_the_mean_over_all_tokens(self):
        """Batches of different sizes: every token counts once; bits per byte by hand."""
        model = GPT(tiny(vocab_size=8)).eval()
        rows = torch.randint(8, (3, 9), generator=torch.Generator().manual_seed(0))
        logits = model(rows[:, :-1])
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
        )
        lengths = torch.arange(8)
        found = probe.surprise(model, [(rows[:1, :-1], rows[:1, 1:]), (rows[1:, :-1], rows[1:, 1:])], lengths)
        assert found["loss"] == pytest.approx(nats.mean().item(), abs=1e-6)
        n_bytes = lengths[rows[:, 1:]].sum().item()
        assert found["bits_per_byte"] == pytest.approx(nats.sum().item() / np.log(2) / n_bytes, abs=1e-6)
        assert found["perplexity"] == pytest.approx(nats.mean().exp().item(), rel=1e-5)

    def test_a_uniform_model_needs_eight_bits_a_byte(self):
        """Over 256 bytes that are all alike, a byte costs 8 bits and the perplexity is 256."""

        class Uniform(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def forward(self, tokens):
                return torch.zeros(*tokens.shape, 256)

        tokens = torch.randint(256, (2, 10))
        found = probe.surprise(Uniform(), [(tokens, tokens)], torch.ones(256, dtype=torch.long))
        assert found["bits_per_byte"] == pytest.approx(8) and found["perplexity"] == pytest.approx(256)

    def test_exact_means_to_the_letter(self):
        rows = [{"completion": " A pig."}] * 4
        assert probe.exact(rows, [" A pig.", " A pig. And", " A pi", "A pig."]) == 0.5
        rows = [{"completion": " a pig"}] * 4
        assert probe.exact(rows, [" a pig", " a pig called Ribbon", " a pigeon", " a pi"]) == 0.5

    def test_a_model_that_knows_scores_everything(self, monkeypatch):
        """Given the right continuations, the quiz gives 100 %; given none, 0 %; chance lies between."""
        town, knows = TinyTown(population=30), {}
        for kind, form in (("knowledge", "plain"), ("knowledge", "cloze"), ("reading", "plain")):
            for row, _ in zip(town.questions("held-out", kind, form), range(100), strict=False):
                knows[row["prompt"]] = row["completion"]
        tokenizer, model = tokenizers.CharTokenizer.train("ab"), GPT(tiny(max_seq_len=4096))
        monkeypatch.setattr(tokenizer, "encode", lambda text: [0] * len(text))
        for answer, score in ((knows.__getitem__, 1.0), (lambda prompt: "", 0.0)):
            monkeypatch.setattr(probe, "complete", lambda m, t, prompts, a=answer: [a(p) for p in prompts])
            scores = probe.quiz(model, tokenizer, town)
            assert {scores[k] for k in ("knowledge_plain", "knowledge_cloze", "strangers")} == {score}
            assert 0 < scores["knowledge_guess"] < 0.5 and 0.2 < scores["strangers_guess"] <= 0.5

    def test_prompts_of_different_length_keep_their_places(self, home):
        """Each prompt gets the continuation that it gets alone."""
        text = prepared(home)
        model = GPT(tiny(vocab_size=text.tokenizer.vocab_size))
        prompts = ["the cat", "a", "the dog sat", "b"]
        together = probe.complete(model, text.tokenizer, prompts, max_tokens=5)
        assert together == [probe.complete(model, text.tokenizer, [p], max_tokens=5)[0] for p in prompts]


class TestRanges:
    def test_noise_is_what_the_slope_does_not_explain(self):
        """A straight fall has a standard deviation and no noise; a flat noisy line has both alike."""
        steps = list(range(1, 101))
        table = _report.ranges(steps, [10 - 0.05 * s for s in steps], parts=4)
        assert [(r.first, r.last) for r in table] == [(1, 25), (26, 50), (51, 75), (76, 100)]
        assert all(r.sd > 0.3 and r.noise < 1e-9 for r in table)
        assert table[0].mean == pytest.approx(10 - 0.05 * 13) and table[0].cv == pytest.approx(
            table[0].sd / table[0].mean
        )
        noisy = _report.ranges(steps, [5 + (-1) ** s for s in steps], parts=1)[0]
        assert noisy.noise == pytest.approx(noisy.sd, rel=0.02)

    def test_short_runs_have_one_range(self):
        assert len(_report.ranges([1, 2], [3.0, 2.0])) == 1
