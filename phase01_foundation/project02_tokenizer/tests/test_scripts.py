"""The project as a whole: its scripts, its technique in use, and what happens to bad input."""

import json

import pytest

from common import tokenizer
from common.trial import refused, run, unplugged
from phase01_foundation.project02_tokenizer import explore, fast_bpe, regex_bpe, train, visualise

TEXT = "The baker's dog sleeps. The miller and the baker wake the dog.\n" * 60 + "A zephyr. "


@pytest.fixture
def home(home):
    """A place of its own for runs, and a small text as the corpus."""
    (home / "own.txt").write_text(TEXT, encoding="utf-8")
    return home


PARTS = (fast_bpe.merge_word, fast_bpe.merge_piece, fast_bpe.BPE.encode, regex_bpe.split_special)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__qualname__)
def test_is_on(part, home):
    """A technique that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(part):
        run(train, "smoke", "--corpus", home / "own.txt")


def test_smoke(home, capsys):
    """Learn, save, load as later projects do, look at tokens, draw the pictures."""
    run(train, "smoke", "--corpus", home / "own.txt", "--save")
    said = capsys.readouterr().out
    assert "first merges" in said and "bytes a token" in said and "add text" in said
    saved = tokenizer.load(home / "models" / "tokenizer")
    assert saved.decode(saved.encode(TEXT)) == TEXT
    card = json.loads((home / "models" / "tokenizer" / "card.json").read_text())
    assert card["tokenizer_sha256"] == saved.sha256
    chat = saved.chat_ids([{"role": "user", "content": "hi<|im_end|>"}], add_generation_prompt=True)
    assert chat.count(saved.special["<|im_end|>"]) == 1, "a user's text must not end the turn"
    run(visualise, "smoke", "--text", "The <b>dog</b>\\n", "--tokenizer", home / "models" / "tokenizer")
    page = (home / "runs" / "project02_tokenizer" / "visualise-smoke" / "tokens.html").read_text("utf-8")
    assert "<b>" not in page and "&lt;" in page
    run(visualise, "smoke", "--ids", "84,99999", "--tokenizer", home / "models" / "tokenizer")
    assert "<no id 99999>" in capsys.readouterr().out
    run(explore, "smoke", "--corpus", home / "own.txt", "--steps", "2", "--words", "dog baker|miller")
    folder = home / "runs" / "project02_tokenizer" / "explore-smoke"
    for name in ("compression", "scripts", "cosines", "map"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_is_refused_in_one_line(home, capsys):
    """What cannot be learned from, or is no number, ends in one line that says why."""
    own = ("--corpus", home / "own.txt")
    assert "at least 260" in refused(capsys, train, "smoke", *own, "--vocab-size", 259)
    (home / "empty.txt").write_text("")
    assert "empty" in refused(capsys, train, "smoke", "--corpus", home / "empty.txt")
    (home / "latin.txt").write_bytes("été".encode("latin-1") * 100)
    assert "latin.txt" in refused(capsys, train, "smoke", "--corpus", home / "latin.txt")
    assert "no corpus is called" in refused(capsys, train, "smoke", "--corpus", "shakespear")
    assert "tokenizer.json" in refused(capsys, visualise, "smoke", "--tokenizer", home)
    fast_bpe.train(TEXT, 300).save(home)
    assert "whole numbers" in refused(capsys, visualise, "smoke", "--ids", "one,two", "--tokenizer", home)


def test_a_folder_of_files_is_a_corpus(home):
    """Markdown, code and text in one folder are read by their kinds."""
    folder = home / "mine"
    folder.mkdir()
    (folder / "a.md").write_text("# Dogs\\n\\n" + TEXT)
    (folder / "b.py").write_text("for dog in dogs:\\n    print(dog)\\n" * 50)
    run(train, "smoke", "--corpus", folder)
    result = json.loads((home / "runs" / "project02_tokenizer" / "smoke" / "result.json").read_text())
    assert result["metrics"]["bytes_per_token"] > 1.5


def test_what_a_text_loses_is_noticed(home, monkeypatch):
    """A tokenizer that does not give its text back ends the run."""
    monkeypatch.setattr(fast_bpe.BPE, "decode", lambda self, ids, errors="replace": "")
    with pytest.raises(AssertionError, match="lost text"):
        run(train, "smoke", "--corpus", home / "own.txt")
