"""Near-duplicates by MinHash: find the documents that resemble an earlier one without comparing all pairs.

Broder 1997 ("On the resemblance and containment of documents"); bands after Leskovec, Rajaraman and
Ullman ("Mining of Massive Datasets", chapter 3). A pure function of its arguments, the same on every machine.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import NamedTuple

import numpy as np

from common.errors import UserError

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def normal(text: str) -> str:
    """The text as splits and shingles see it: lower case, words only, one space between them."""
    return " ".join(WORD.findall(text.lower()))


def digest(text: str, salt: str = "") -> int:
    """64 bits of a text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8, key=salt.encode()[:64]).digest(), "big")


def shingles(text: str, n: int = 5) -> frozenset[int]:
    """The hashed runs of `n` words of a text; of the whole text where it has fewer words."""
    words = normal(text).split()
    runs = {" ".join(words[i:i + n]) for i in range(max(1, len(words) - n + 1))}
    return frozenset(digest(run) for run in runs)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """The share of shingles that two documents have in common, of those that either has."""
    return len(one & other) / len(one | other)


def signature(shingled: frozenset[int], multipliers: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The least hash of the shingles under each hash function: (n_hashes,) uint64.

    Two signatures agree in a place with a probability that is the Jaccard similarity of the documents. The
    hash functions are multiply-shift, (a x + b) >> 32 in 64-bit arithmetic (Dietzfelbinger et al. 1997).
    """
    x = np.fromiter(shingled, dtype=np.uint64, count=len(shingled))  # (n,)
    hashed = (x[:, None] * multipliers + shifts) >> np.uint64(32)    # (n, n_hashes)
    return hashed.min(axis=0)


def hash_functions(n_hashes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd multipliers and shifts of that many hash functions, (n_hashes,) uint64 each."""
    rng = Random(seed)
    multipliers = [rng.getrandbits(64) | 1 for _ in range(n_hashes)]
    shifts = [rng.getrandbits(64) for _ in range(n_hashes)]
    return np.array(multipliers, np.uint64), np.array(shifts, np.uint64)


def rows_per_band(threshold: float, n_hashes: int, recall: float = 0.995) -> int:
    """The most rows a band may have so that a pair at the threshold still meets in one with this probability.

    Of b bands with r rows each, two documents of similarity s share at least one with 1 - (1 - s^r)^b.
    """
    fitting = [r for r in range(1, n_hashes + 1) if 1 - (1 - threshold ** r) ** (n_hashes // r) >= recall]
    return max(fitting, default=1)


class Deduped(NamedTuple):
    """What deduplication found."""

    kept: list[int]  # indices of the documents that stay, in order
    copy_of: dict[int, int]  # each dropped document, and the kept one that it is a copy of
    compared: int  # pairs whose similarity was computed, out of n (n - 1) / 2


def dedupe(documents: Sequence[str], threshold: float = 0.7, *, n: int = 5, n_hashes: int = 128,
           seed: int = 0) -> Deduped:
    """Drop documents that resemble an earlier one: Jaccard similarity of word n-grams from the threshold up.

    MinHash bands only propose pairs; each is then measured exactly, so nothing is dropped by mistake. Pairs
    at the threshold are missed with a chance of 0.5 %, closer ones far more rarely.
    """
    if not 0 < threshold <= 1 or n < 1 or n_hashes < 1:
        raise UserError(f"dedupe needs a threshold above 0 and up to 1, and n and n_hashes from 1, "
                        f"not {threshold}, {n} and {n_hashes}.")
    functions = hash_functions(n_hashes, seed)
    rows = rows_per_band(threshold, n_hashes)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    kept_shingles: dict[int, frozenset[int]] = {}
    copy_of: dict[int, int] = {}
    compared = 0
    for i, text in enumerate(documents):
        mine = shingles(text, n)
        marks = signature(mine, *functions)
        starts = range(0, n_hashes - rows + 1, rows)
        bands = [(start, marks[start:start + rows].tobytes()) for start in starts]
        rivals = sorted({j for band in bands for j in buckets[band]})
        compared += len(rivals)
        original = next((j for j in rivals if jaccard(mine, kept_shingles[j]) >= threshold), None)
        if original is not None:
            copy_of[i] = original
            continue
        kept_shingles[i] = mine
        for band in bands:
            buckets[band].append(i)
    return Deduped(list(kept_shingles), copy_of, compared)


def pair_score(labels: Sequence[int], found: Deduped) -> tuple[float, float]:
    """Precision and recall of what was dropped, where `labels` says whose copy each document is."""
    first: dict[int, int] = {}
    copies = {i for i, label in enumerate(labels) if first.setdefault(label, i) != i}
    right = sum(labels[i] == labels[j] for i, j in found.copy_of.items())
    return right / max(1, len(found.copy_of)), right / max(1, len(copies))
