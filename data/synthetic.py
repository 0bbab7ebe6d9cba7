"""The synthetic-data lab: spoil a text in known ways, find what was spoiled, and split what is left.

Noise and near-duplicates come with labels, so that what a filter or a deduplicator finds can be scored.
The quality rules follow Rae et al. 2021 (Gopher, arXiv:2112.11446, table A1); duplicates are found by
`minhash`. All is a pure function of its arguments, the same on every machine.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from common.errors import UserError
from data.minhash import WORD, digest, normal

CLEAN = re.compile(r"\W?\W?[\w'’-]*[^\W\d_][\w'’-]*\W*")  # a word with a letter in it, and punctuation around


def demand_share(share: float, name: str) -> None:
    """UserError unless this is a share, from 0 to 1."""
    if not 0 <= share <= 1:
        raise UserError(f"{name} is a share, from 0 to 1, not {share}.")


# --- noise -------------------------------------------------------------------------------------------------

def typos(text: str, level: float, rng: Random) -> str:
    """Letters swapped, dropped, doubled or replaced; `level` is the chance of each letter."""
    letters = list(text)
    for i, letter in enumerate(text):
        if letter.isalpha() and rng.random() < level:
            kind = int(rng.random() * 4)
            if kind == 0 and i + 1 < len(letters):
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
            else:
                letters[i] = ("", letter * 2, "abcdefghijklmnopqrstuvwxyz"[int(rng.random() * 26)])[kind % 3]
    return "".join(letters)


def shuffled(text: str, level: float, rng: Random) -> str:
    """Words out of their order; `level` is the chance that a word changes places with another one."""
    words = text.split(" ")
    for i in range(len(words)):
        if rng.random() < level:
            j = int(rng.random() * len(words))
            words[i], words[j] = words[j], words[i]
    return " ".join(words)


def symbols(text: str, level: float, rng: Random) -> str:
    """Scraps of markup between the words, as a careless crawl leaves them; `level` is the chance of each."""
    scraps = ("<div>", "&nbsp;", "{{", "}}", "###", "|", "=====", "»", "\\x9d", "[edit]", "http://", "%20")
    words = (word if rng.random() >= level else f"{word} {scraps[int(rng.random() * len(scraps))]}"
             for word in text.split(" "))
    return " ".join(words)


NOISE: dict[str, Callable] = {"typos": typos, "shuffled": shuffled, "symbols": symbols}


class Spoiled(NamedTuple):
    """Documents with a label each: for noise whether it was spoiled, for duplicates whose copy it is."""

    documents: list[str]
    labels: list


def add_noise(documents: Sequence[str], share: float, level: float, kind: str = "typos",
              seed: int = 0) -> Spoiled:
    """Spoil a share of the documents. The labels are True where a document was spoiled."""
    demand_share(share, "share")
    demand_share(level, "level")
    if kind not in NOISE:
        raise UserError(f"There is no noise called {kind!r}. Take one of {', '.join(NOISE)}.")
    rng = Random(seed)
    labels = [rng.random() < share for _ in documents]
    pairs = zip(documents, labels, strict=True)
    return Spoiled([NOISE[kind](text, level, rng) if bad else text for text, bad in pairs], labels)


# --- near-duplicates ---------------------------------------------------------------------------------------

def near_copy(text: str, edits: float, rng: Random) -> str:
    """A copy with a share of its words dropped, doubled or moved; the case or the last spaces may change."""
    words = text.split(" ")
    for i in range(len(words)):
        if rng.random() < edits:
            kind = int(rng.random() * 3)
            if kind == 2 and i + 1 < len(words):
                words[i], words[i + 1] = words[i + 1], words[i]
            else:
                words[i] = ("", f"{words[i]} {words[i]}")[kind % 2]
    copy = " ".join(words)
    return copy.upper() if rng.random() < 0.1 else copy + "\n" * int(rng.random() * 3)


def add_copies(documents: Sequence[str], share: float, edits: float = 0.02, seed: int = 0) -> Spoiled:
    """Mix near-copies in, `share` of them per document. The labels are the index of each one's original."""
    if share < 0:
        raise UserError(f"share is a number of copies per document, 0 or more, not {share}.")
    demand_share(edits, "edits")
    rng = Random(seed)
    chosen = [int(rng.random() * len(documents)) for _ in range(round(share * len(documents)))]
    mixed = [*enumerate(documents), *((i, near_copy(documents[i], edits, rng)) for i in chosen)]
    rng.shuffle(mixed)
    return Spoiled([text for _, text in mixed], [i for i, _ in mixed])


# --- quality filters ---------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Quality:
    """What a document must be like, in the terms of `Measures`. The defaults suit pages of prose."""

    min_words: int = 20
    max_words: int = 100_000
    max_symbol_share: float = 0.10
    min_alphabetic_share: float = 0.80
    mean_word: tuple[float, float] = (2.5, 9.0)
    max_line_repeats: float = 0.30
    max_run_share: float = 0.20
    min_stop_words: int = 2


STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with", "a", "in", "is", "was"))


class Measures(NamedTuple):
    """What the quality rules look at. Shares are from 0 to 1."""

    words: int
    symbols: float  # characters that are no letter, digit, space or plain punctuation
    alphabetic: float  # words with a letter in them and nothing strange
    mean_word: float  # letters
    line_repeats: float  # lines that were there before
    run_share: float  # words that belong to the most frequent run of three
    stop_words: int  # different ones


def measure(text: str) -> Measures:
    """The measures of a text that has at least one word."""
    words = WORD.findall(text.lower())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    tokens = text.split()
    strange = sum(not (c.isalnum() or c.isspace() or c in ".,;:!?'\"()-’“”") for c in text)
    clean = sum(CLEAN.fullmatch(token) is not None for token in tokens)
    return Measures(len(words), strange / len(text), clean / len(tokens), sum(map(len, words)) / len(words),
                    1 - len(set(lines)) / len(lines), 3 * max(runs.values(), default=0) / len(words),
                    len(STOP_WORDS & set(words)))


def flaws(text: str, quality: Quality) -> list[str]:
    """The reasons to drop a document, none if it is good. Length comes first, and alone."""
    n_words = len(WORD.findall(text))
    if n_words < max(1, quality.min_words):
        return ["too short"]
    if n_words > quality.max_words:
        return ["too long"]
    found = measure(text)
    checks = {
        "symbols": found.symbols > quality.max_symbol_share,
        "not words": found.alphabetic < quality.min_alphabetic_share,
        "word length": not quality.mean_word[0] <= found.mean_word <= quality.mean_word[1],
        "repeated lines": found.line_repeats > quality.max_line_repeats,
        "repeated runs": found.run_share > quality.max_run_share,
        "no stop words": found.stop_words < quality.min_stop_words,
    }
    return [reason for reason, bad in checks.items() if bad]


class Filtered(NamedTuple):
    """What the quality filters kept, and why the rest went."""

    kept: list[int]
    dropped: dict[int, str]  # each dropped document with its first reason
    counts: dict[str, int]  # how many went for each reason


def quality_filter(documents: Sequence[str], quality: Quality = Quality()) -> Filtered:
    """Keep the documents without a flaw."""
    found = {i: flaws(text, quality) for i, text in enumerate(documents)}
    dropped = {i: reasons[0] for i, reasons in found.items() if reasons}
    return Filtered([i for i in found if i not in dropped], dropped, dict(Counter(dropped.values())))


# --- splits ------------------------------------------------------------------------------------------------

def split_of(text: str, shares: Mapping[str, float], salt: str = "split") -> str:
    """The split that a document belongs to, by a hash of its normal form: equal documents never part."""
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise UserError(f"The shares of the splits must be 0 or more and sum to 1, not {dict(shares)}.")
    place, bound = digest(normal(text), salt) / 2 ** 64, 0.0
    for name, share in shares.items():
        bound += share
        if place < bound:
            return name
    return name  # place is so near to 1 that the sum of the shares fell short of it


def split(documents: Sequence[str], shares: Mapping[str, float], salt: str = "split",
          copies: Mapping[int, int] | None = None) -> dict[str, list[int]]:
    """The indices of each split. With `copies` (see `Deduped`) a near-copy goes where its original goes."""
    parts: dict[str, list[int]] = {name: [] for name in shares}
    for i in range(len(documents)):
        parts[split_of(documents[(copies or {}).get(i, i)], shares, salt)].append(i)
    return parts
