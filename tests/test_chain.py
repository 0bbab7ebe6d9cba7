"""The chain of models: what is named, what is there, and a tiny stand-in where nothing is."""

from importlib import import_module

import pytest

from common import hub, tokenizer
from common.cli import chain
from common.errors import UserError
from common.trial import model_folder, run


def test_the_model_that_is_named_comes_first(home, tmp_path):
    mine = model_folder(tmp_path / "mine")
    model_folder(home / "models" / "base")
    assert chain.find("base", str(mine)) == mine


def test_the_chains_own_model_comes_next(home):
    made = model_folder(home / "models" / "sft")
    assert chain.find("sft") == made


def test_a_name_that_is_nowhere_is_refused(home):
    with pytest.raises(UserError, match="nowhere"):
        chain.find("base", str(home / "nowhere"))


def test_a_half_written_model_is_not_taken(home):
    folder = model_folder(home / "models" / "base")
    (folder / "card.json").unlink()
    assert not chain.whole(folder)


def test_a_stand_in_is_made_once(home, monkeypatch):
    """Where there is no base, project 3's smoke preset makes one; the second call finds it. Started here."""

    def start(module, arguments, output):
        run(import_module(module), *arguments)
        return 0

    monkeypatch.setattr(chain.launch, "start", start)
    said = []
    folder = chain.find("base", say=said.append)
    assert folder == home / "models" / "tiny" / "base" and "stand-in is trained" in said[0]
    model, words = hub.load(folder), tokenizer.load(folder)
    assert model.config.vocab_size == words.vocab_size and "<|im_end|>" in words.special
    assert chain.find("base", say=said.append) == folder and "is used" in said[1]


def test_a_maker_that_fails_is_told_of(home, monkeypatch):
    monkeypatch.setattr(chain.launch, "start", lambda *args, **kwargs: 3)
    with pytest.raises(UserError, match=r"base-\d+\.log"):
        chain.find("base", say=str)
