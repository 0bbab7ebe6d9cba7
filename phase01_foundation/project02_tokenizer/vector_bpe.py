"""Rung 5: encode without a loop. Rung 4 spends its time in the splitter; here NumPy splits the whole text
at once.

New here against rung 4, whose ids it reproduces exactly, for GPT-2's pattern:

1. *A piece begins where the class changes* (letter, digit, white space, other), but for the one space that
   goes with the word behind it and for the contractions. On ASCII that is a handful of comparisons of the
   text with itself, shifted by one.
2. *A piece of up to 16 bytes is two numbers.* Read as 64-bit words they are looked up in a table of the
   pieces known so far, all pieces at once; the words themselves are compared, so a collision costs time and
   never a wrong id.
3. *The rest goes the old way*: pieces not yet known or longer, and words with a byte that is not ASCII,
   together with what stands between the spaces around them.
"""

from itertools import chain

import numpy as np

from common.exercise import exercise

from .byte_tokenizer import to_bytes
from .fast_bpe import BPE, cut
from .regex_bpe import GPT2_PATTERN, allowed, split_special

LETTER, DIGIT, OTHER, SPACE, STRANGE = range(5)
CLASS = np.full(256, OTHER, np.uint8)
CLASS[[*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]] = LETTER
CLASS[[*b"0123456789"]] = DIGIT
CLASS[[*b" \t\n\r"]] = SPACE
CLASS[[*range(9), 11, 12, *range(14, 32), *range(127, 256)]] = STRANGE  # not ASCII, or a control character
KEEP = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)  # mask of the first n bytes
MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)  # odd, so that multiplying loses nothing


@exercise
def piece_starts(text):
    """Where the pieces of GPT-2's pattern begin: bytes as uint8 (n,), ASCII -> bool (n,).

    A piece begins where the class of the byte changes, with three exceptions: a space before a non-space
    begins the piece of that non-space; the last of several white spaces before a non-space begins a piece
    of its own; and 's 'd 'm 't 'll 've 're behind a letter, a digit or a line break are one piece.
    """
    kind = CLASS[text]
    before, after = np.empty_like(kind), np.empty_like(kind)
    before[0], before[1:] = 255, kind[:-1]  # something begins at the very start
    after[-1], after[:-1] = SPACE, kind[1:]
    blank = np.zeros(len(text), bool)
    blank[1:] = text[:-1] == ord(" ")
    white = kind == SPACE
    starts = (kind != before) & (white | ~blank) | white & (after != SPACE)
    quotes = np.flatnonzero(starts & (text == ord("'")))
    quotes = quotes[quotes + 1 < len(text)]
    first, second = text[quotes + 1], text[np.minimum(quotes + 2, len(text) - 1)]
    one = np.isin(first, [*b"sdmt"])
    two = ((first == ord("l")) & (second == ord("l")) | np.isin(first, [*b"vr"]) & (second == ord("e"))) & (
        quotes + 2 < len(text)
    )
    for matched, length in ((one, 2), (two, 3)):
        at = quotes[matched]
        starts[at + 1] = False
        starts[at[at + length < len(text)] + length] = True
    return starts


def fits(piece):
    """May a piece stand in the table? Not with a NUL, which would look like padding."""
    return len(piece) <= 16 and piece.isascii() and "\0" not in piece


class Table:
    """Pieces of at most 16 bytes -> ids, looked up all at once. Holds what it is given; two pieces of one
    slot: the second stays out."""

    def __init__(self, known):
        pieces = [(piece.encode(), ids) for piece, ids in known.items() if fits(piece)][::-1]
        size = max(10, (8 * len(pieces)).bit_length())
        self.shift = np.uint64(64 - size)
        padded = b"".join(piece.ljust(16, b"\0") for piece, _ in pieces)
        words = np.frombuffer(padded, np.uint64).reshape(-1, 2)
        slots = self.slot(words)
        self.words = np.zeros((1 << size, 2), np.uint64)
        self.first, self.count = np.zeros(1 << size, np.int64), np.zeros(1 << size, np.int64)
        counts = np.array([len(ids) for _, ids in pieces], np.int64)
        self.words[slots], self.count[slots] = words, counts
        self.first[slots] = np.cumsum(counts) - counts
        self.ids = np.array(list(chain.from_iterable(ids for _, ids in pieces)), np.int64)

    def slot(self, words):
        """(n, 2) words -> (n,) where in the table they belong."""
        mixed = words[:, 0] * MIX[0] ^ words[:, 1] * MIX[1]
        return mixed * MIX[0] >> self.shift

    def find(self, words):
        """(n, 2) words -> (where their ids begin, how many; 0 for a piece that is not in the table)."""
        slots = self.slot(words)
        found = (self.words[slots] == words).all(axis=1)
        return self.first[slots], np.where(found, self.count[slots], 0)


def words_of(text, starts, lengths):
    """Each piece of at most 16 bytes as two 64-bit words, padded with zeros: (n, 2). `text` has 16 bytes to
    spare at its end."""
    view = np.ndarray(len(text) - 7, np.uint64, text, strides=(1,))  # the eight bytes from each place on
    low, high = np.minimum(lengths, 8), np.clip(lengths - 8, 0, 8)
    return np.stack((view[starts] & KEEP[low], view[starts + 8] & KEEP[high]), axis=1)


class VectorBPE(BPE):
    """A BPE whose `encode` has no loop over the text. For GPT-2's pattern only; other patterns go the way
    of rung 4."""

    chunk = 1 << 18  # characters at a time: the arrays stay in the processor's cache

    def __init__(self, ranks, special=None, pattern=GPT2_PATTERN):
        super().__init__(ranks, special, pattern)
        self.table, self.learned = Table({}), 0

    def encode(self, text, allowed_special=()):
        """As in rung 4."""
        if self.pattern != GPT2_PATTERN or len(text) < 10_000:
            return super().encode(text, allowed_special)
        may, ids = allowed(self.special, allowed_special), []
        for part in split_special(text, may):
            if part in may:
                ids.append(self.special[part])
            else:
                for chunk in cut([part], size=self.chunk):
                    ids += self.encode_chunk(to_bytes(chunk)).tolist()
        return ids

    def encode_chunk(self, data):
        """bytes -> array of ids."""
        text = np.frombuffer(data + bytes(16), np.uint8)
        starts = np.flatnonzero(self.starts(text[:-16]))
        lengths = np.diff(starts, append=len(data))
        first, count = self.table.find(words_of(text, starts, lengths))
        count[(lengths > 16) | (text[starts + lengths - 1] == 0)] = 0  # a NUL looks like padding
        missing, more = np.flatnonzero(count == 0), []
        for k in missing:
            piece = data[starts[k] : starts[k] + lengths[k]].decode()
            ids = self.known.get(piece) or super().encode(piece)
            first[k], count[k] = len(self.table.ids) + len(more), len(ids)
            more += ids
        every = np.concatenate((self.table.ids, np.array(more, np.int64)))
        if len(self.known) > 1.2 * self.learned:
            self.table, self.learned = Table(self.known), len(self.known)
        ends = np.cumsum(count)
        return every[np.arange(ends[-1]) + np.repeat(first - ends + count, count)]

    def starts(self, text):
        """piece_starts; from the space before a strange byte to the next space, one piece that goes the old
        way."""
        starts, strange = piece_starts(text), np.flatnonzero(CLASS[text] == STRANGE)
        if len(strange):
            solid = (CLASS[text[:-1]] != SPACE) & (CLASS[text[:-1]] != STRANGE)
            cuts = np.flatnonzero(solid & (text[1:] == ord(" "))) + 1
            cuts = np.concatenate(([0], cuts, [len(text)]))
            for k in np.unique(np.searchsorted(cuts, strange, side="right")):
                starts[cuts[k - 1] + 1 : cuts[k]] = False
        return starts
