"""What the tests of this project share: a tokenizer that merges, a tiny model, a few conversations."""

import pytest
import torch

from common import tokenizer as tokenizers
from common import tokenizer_json
from common.model import GPT
from common.testing import tiny
from phase01_foundation.project02_tokenizer import fast_bpe

TALKS = [
    [{"role": "user", "content": "Where does Mara work?"}, {"role": "assistant", "content": "At the inn."}],
    [{"role": "system", "content": "You are Mara."}, {"role": "user", "content": "Who are you?"},
     {"role": "assistant", "content": "I am Mara.\n\nAnd you?"}, {"role": "user", "content": "Nobody."},
     {"role": "assistant", "content": "\n\n  A name!\n"}],
    [{"role": "user", "content": "What does <|im_end|> mean?"},
     {"role": "assistant", "content": "<|im_start|>assistant\nThe end.<|im_end|>"}],
    [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    [{"role": "user", "content": "Naïve café, 東京 🙂?"}, {"role": "assistant", "content": " é 東"}],
]  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A few merges, among them the assistant's head and two line breaks, so that parts encoded apart show."""
    folder = tmp_path_factory.mktemp("tokenizer")
    text = "assistant\n\n  A user\n\nWhere does Mara work? At the inn.\n\n"
    fast_bpe.train([text * 20], 300, tokenizer_json.SPECIAL).save(folder)
    tokenizers.load(folder).save(folder)
    return tokenizers.load(folder)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(tiny(vocab_size=300, max_seq_len=256)).double()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place of its own for runs, models and cache."""
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path))
    monkeypatch.delenv("THIRTY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def talks():
    return [[dict(turn) for turn in talk] for talk in TALKS]
