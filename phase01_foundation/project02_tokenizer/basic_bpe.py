"""Rung 2: byte-pair encoding. Find the two neighbours that stand together most often, give the pair an id,
and begin again.

New here against rung 1: ids above 255. Merge i gets id 256 + i, and its bytes are those of its two halves.
Training is the loop in `train`; encoding replays the merges in the order in which they were learned.
Everything here walks over the whole text for each merge: read it, understand it, and do not use it for more
than a few hundred merges.

Among pairs that are equally frequent the one that sorts first wins. Bytes sort in the order of GPT-2's
printable alphabet ("!" to "~", then the Latin letters, then the unprintable ones), merges behind them in
the order of their making: the rule of the `tokenizers` library, so that both learn the same merges.

Sennrich, Haddow, Birch (2015), Neural Machine Translation of Rare Words with Subword Units, 1508.07909; on
bytes: Radford et al. (2019), GPT-2.
"""

from itertools import pairwise

from common.errors import UserError
from common.exercise import exercise

from .byte_tokenizer import join_bytes, to_bytes, to_text

PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
BYTE_ORDER = PRINTABLE + [b for b in range(256) if b not in PRINTABLE]  # the k-th byte of the alphabet
PLACE = {b: k for k, b in enumerate(BYTE_ORDER)}  # and its inverse: where byte b stands in it


def check_size(vocab_size, n_special=0):
    """UserError for a vocabulary that does not even hold the 256 bytes and the special tokens."""
    if vocab_size < 256 + n_special:
        raise UserError(
            f"a vocabulary of {vocab_size} is too small: the 256 bytes and {n_special} special tokens "
            f"come first; ask for at least {256 + n_special}"
        )


def tie(pair):
    """Sort key of a pair among equally frequent ones."""
    return tuple(PLACE.get(i, i) for i in pair)  # a byte by its place in the alphabet, a merge by its id


@exercise
def count_pairs(ids, counts=None, times=1):
    """How often each pair of neighbours occurs: [1, 2, 1, 2] -> {(1, 2): 2, (2, 1): 1}.

    Adds to `counts` where it is given; each occurrence counts `times`.
    """
    counts = {} if counts is None else counts
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + times
    return counts


@exercise
def merge(ids, pair, new):
    """Replace each occurrence of `pair` by the one id `new`, from left to right: [1, 1, 1, 2], (1, 1), 9 ->
    [9, 1, 2]."""
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


@exercise
def most_frequent(counts):
    """The pair with the highest count; among equals the one that comes first by `tie`."""
    return min(counts, key=lambda pair: (-counts[pair], tie(pair)))


class BasicBPE:
    """merges: {(left id, right id): new id} in the order in which they were learned."""

    def __init__(self, merges=None):
        self.merges = merges or {}
        self.vocab = {b: bytes([b]) for b in range(256)}  # id -> bytes
        for (left, right), new in self.merges.items():
            self.vocab[new] = self.vocab[left] + self.vocab[right]

    @classmethod
    def train(cls, text, vocab_size):
        """Learn vocab_size - 256 merges from the text; fewer where no pair of neighbours is left that
        occurs twice."""
        check_size(vocab_size)
        ids, merges = list(to_bytes(text)), {}
        while 256 + len(merges) < vocab_size:
            counts = count_pairs(ids)
            pair = most_frequent(counts) if counts else None
            if pair is None or counts[pair] < 2:
                break
            merges[pair] = 256 + len(merges)
            ids = merge(ids, pair, merges[pair])
        return cls(merges)

    def encode(self, text):
        """str -> list of ids."""
        return self.merge_all(list(to_bytes(text)))

    @exercise
    def merge_all(self, ids):
        """Apply the merges to a list of ids, the one learned first (the lowest new id) first, until none
        fits.

        The order is the point: a later merge may need what an earlier one made.
        """
        while len(ids) > 1:
            pair = min(count_pairs(ids), key=lambda p: self.merges.get(p, float("inf")))
            if pair not in self.merges:
                break
            ids = merge(ids, pair, self.merges[pair])
        return ids

    def decode(self, ids, errors="replace"):
        """list of ids -> str; an id that does not exist gives U+FFFD, with errors="strict" a UserError."""
        return to_text(join_bytes(self.vocab, ids, errors), errors)
