"""Against what nobody here wrote: the merges and ids of `tokenizers`, the ids of `tiktoken`, GPT-2's own
ranks."""

import json
import os
import random
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data.corpora import load
from phase01_foundation.project02_tokenizer.fast_bpe import BPE, train
from phase01_foundation.project02_tokenizer.tokenizer_json import BYTE, LETTER, spell, unspell
from phase01_foundation.project02_tokenizer.vector_bpe import VectorBPE

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")


@pytest.fixture(scope="module")
def text():
    return load("python-manual")[:300_000]


@pytest.fixture(scope="module")
def bpe(text):
    return train(text, 1500, SPECIAL)


@pytest.fixture(scope="module")
def gpt2_ranks():
    """GPT-2's published vocabulary, as ranks."""
    vocab = json.loads((Path(os.environ["THIRTY_DATA"]) / "gpt2_vocab.json").read_text("utf-8"))
    return {unspell(token): i for token, i in vocab.items() if token != "<|endoftext|>"}


def as_tiktoken(bpe):
    pattern, ranks, special = bpe.pattern, bpe.ranks, bpe.special
    return tiktoken.Encoding("ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def learned_by_tokenizers(text, vocab_size):
    """The merges that the `tokenizers` library learns, as pairs of bytes."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator([text], trainer)
    return [unspell(left + right) for left, right in json.loads(model.to_str())["model"]["merges"]]


def ours(bpe):
    return sorted((token for token in bpe.ranks if len(token) > 1), key=bpe.ranks.get)


def test_matches_tokenizers_merges(text):
    """Every merge of the `tokenizers` library, in its order."""
    assert ours(train(text, 1500)) == learned_by_tokenizers(text, 1500)


def test_matches_tiktoken_ids(text, bpe):
    """Our ranks given to tiktoken give our ids, on text that was not learned from."""
    later = load("python-manual")[300_000:500_000]
    assert as_tiktoken(bpe).encode_ordinary(later) == bpe.encode(later)
    chat = "<|im_start|>user\nhi<|im_end|>\n"
    assert as_tiktoken(bpe).encode(chat, allowed_special="all") == bpe.encode(chat, "all")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_matches_tiktoken_on_any_unicode(bpe, drawn):
    """Emoji, combining marks, every script, NULs: the same ids as tiktoken, and the text comes back."""
    ids = bpe.encode(drawn)
    assert ids == as_tiktoken(bpe).encode_ordinary(drawn)
    assert bpe.decode(ids, errors="strict") == drawn


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(st.text(max_size=200))
def test_matches_tiktoken_on_ten_thousand_strings(bpe, drawn):
    """The same, ten thousand times."""
    assert bpe.encode(drawn) == as_tiktoken(bpe).encode_ordinary(drawn)


def test_matches_tiktoken_without_a_loop(bpe):
    """Rung 5 gives tiktoken's ids on a long text, cold and warm, also among strange bytes and at every
    cut."""
    later = load("python-manual")[200_000:400_000]
    vector, theirs = VectorBPE(bpe.ranks, bpe.special), as_tiktoken(bpe)
    for _ in range(2):
        assert vector.encode(later) == theirs.encode_ordinary(later)
    assert vector.encode(later + "<|pad|>", "all") == theirs.encode(later + "<|pad|>", allowed_special="all")
    rng = random.Random(0)
    bits = ["'s", "'ll", " ", "  ", "\n", "a", "lo", "1", "!", "é", "\u00a0", "今", "x'", "\x00", "🙂", " of"]
    vector.chunk = 50
    for _ in range(10):
        odd = "".join(rng.choices(bits, k=12_000))
        assert vector.encode(odd) == theirs.encode_ordinary(odd)


def test_saved_file_loads_in_tokenizers(bpe, text, tmp_path):
    """tokenizer.json is the `tokenizers` library's own format: it loads it and gives our ids and our text."""
    tokenizers = pytest.importorskip("tokenizers")
    bpe.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    sample = text[:50_000] + "  été 🙂\n\n 今日 \t x"
    assert theirs.encode(sample).ids == bpe.encode(sample)
    assert theirs.encode("a<|endoftext|>").ids == bpe.encode("a<|endoftext|>", "all")
    assert theirs.decode(bpe.encode(sample), skip_special_tokens=False) == sample


def test_saved_file_loads_again(bpe, tmp_path):
    """What was saved is what is loaded: ranks, special tokens, pattern."""
    bpe.save(tmp_path)
    again = BPE.load(tmp_path)
    assert (again.ranks, again.special, again.pattern) == (bpe.ranks, bpe.special, bpe.pattern)


def test_loads_a_file_of_the_library(text, tmp_path):
    """A byte-level tokenizer.json that the library trained and saved gives the library's ids."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.ByteLevelBPETokenizer()
    end = ["<|endoftext|>"]
    model.train_from_iterator([text[:50_000]], vocab_size=600, special_tokens=end, show_progress=False)
    model.save(str(tmp_path / "tokenizer.json"))
    assert BPE.load(tmp_path).encode(text[50_000:90_000]) == model.encode(text[50_000:90_000]).ids


OTHER = '{"model": {"vocab": {"a": 0}}, "added_tokens": [], "pre_tokenizer": null}'  # one with words, say


@pytest.mark.parametrize("content", ["", "{}", OTHER])
def test_other_files_are_refused(tmp_path, content):
    """A broken file, or another kind of tokenizer, is refused in one line; so is an empty folder."""
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        BPE.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="no byte-level BPE"):
        BPE.load(tmp_path)


def test_matches_the_byte_alphabet_of_tokenizers():
    """The printable spelling of bytes is the library's."""
    tokenizers = pytest.importorskip("tokenizers")
    assert set(LETTER.values()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert level.pre_tokenize_str("é 🙂\n")[0][0] == spell("é 🙂\n".encode())
    assert all(BYTE[LETTER[b]] == b for b in range(256))


@pytest.mark.needs_data
def test_matches_tokenizers_on_wikitext():
    """Ten thousand ids learned from WikiText-2: every merge the library's."""
    text = load("wikitext/valid") + load("wikitext/test")
    assert ours(train(text, 9996)) == learned_by_tokenizers(text, 9996)


@pytest.mark.needs_data
def test_matches_gpt2_on_every_line(gpt2_ranks):
    """GPT-2's published ranks, loaded here, give tiktoken's ids on every line of WikiText-2's test text."""
    bpe = BPE(gpt2_ranks)
    theirs = as_tiktoken(bpe)
    for line in load("wikitext/test").splitlines(keepends=True):
        assert bpe.encode(line) == theirs.encode_ordinary(line)
