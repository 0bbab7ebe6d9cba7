"""tokenizer.json: the file in which the `tokenizers` library keeps a byte-level BPE, written and read.

JSON holds text and a token is bytes, so each byte is written as a printable character: itself where it is
one (the alphabet of rung 2), else a letter from U+0100 on. This is GPT-2's bytes_to_unicode table. The file
keeps the merges as pairs; a BPE needs the ranks only, so each pair is found again by splitting the token
with all earlier merges.
"""

import json
from itertools import pairwise
from pathlib import Path

from common.errors import UserError
from common.files import write_json

from .basic_bpe import BYTE_ORDER, PRINTABLE

# byte -> character: the k-th byte of the alphabet is itself, or one of the letters from U+0100 on
LETTER = {b: chr(b if b in PRINTABLE else 256 + k - len(PRINTABLE)) for k, b in enumerate(BYTE_ORDER)}
BYTE = {letter: b for b, letter in LETTER.items()}
# What ByteLevel(use_regex=True) of the library splits by; our pattern is the same with possessive
# quantifiers, which are faster.
PLAIN_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def spell(data):
    """bytes -> the printable characters that stand for them in the file."""
    return "".join(map(LETTER.__getitem__, data))


def unspell(text):
    """The inverse of spell; KeyError for a character that stands for no byte."""
    return bytes(map(BYTE.__getitem__, text))


def halves(token, ranks):
    """The two tokens that were merged into this one: what is left of its bytes when all earlier merges have
    been made."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, ranks[token]) for a, b in pairwise(parts)]
        i = joined.index(min(joined))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def to_json(bpe, folder):
    """Write `folder`/tokenizer.json."""
    by_rank = sorted(bpe.ranks, key=bpe.ranks.get)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [{"id": i, "content": token, **plain} for token, i in bpe.special.items()]
    split = {"type": "Split", "pattern": {"Regex": bpe.pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {
        "type": "BPE",
        "byte_fallback": False,
        "vocab": {spell(token): bpe.ranks[token] for token in by_rank},
        "merges": [[spell(half) for half in halves(token, bpe.ranks)] for token in by_rank if len(token) > 1],
    }
    write_json(
        Path(folder) / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": special,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": None,
            "decoder": level,
            "model": model,
        },
    )


def read_pattern(node):
    """The split pattern of a pre_tokenizer entry; None where it has none."""
    if not node:
        return None
    if node["type"] == "Sequence":
        return next((found for child in node["pretokenizers"] if (found := read_pattern(child))), None)
    if node["type"] == "Split":
        return node["pattern"].get("Regex")
    return PLAIN_GPT2 if node["type"] == "ByteLevel" and node.get("use_regex", True) else None


def from_json(folder):
    """(ranks, special tokens, pattern) of `folder`/tokenizer.json. UserError where there is none, or where
    it is no byte-level BPE."""
    path = Path(folder) / "tokenizer.json"
    try:
        file = json.loads(path.read_text("utf-8"))
        special = {entry["content"]: entry["id"] for entry in file["added_tokens"]}
        vocab = {token: i for token, i in file["model"]["vocab"].items() if token not in special}
        ranks = {unspell(token): i for token, i in vocab.items()}
        pattern = read_pattern(file["pre_tokenizer"])
    except FileNotFoundError:
        raise UserError(f"{folder} holds no tokenizer.json; make one with: ./thirty run 2") from None
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is no byte-level BPE ({what}); save it again with BPE.save") from None
    if len(ranks) < 256 or not pattern:
        lacks = "some of the 256 bytes" if pattern else "a pattern to split by"
        raise UserError(f"{path} lacks {lacks}, so it is no byte-level BPE; make one with: ./thirty run 2")
    return ranks, special, pattern
