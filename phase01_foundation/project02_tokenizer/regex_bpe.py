"""Rung 3: split first, then merge. Left alone, rung 2 spends ids on "dog.", "dog!" and "dog?", and glues
words across spaces.

New here against rung 2: a pattern cuts the text into pieces (a word with the space before it, a number, a
run of punctuation, a run of white space), and no merge ever reaches over the cut. The same cut is made in
training and in encoding: a tokenizer that splits in one and not in the other learns merges that it never
uses. And special tokens (<|endoftext|>) get ids of their own, which no text can reach by accident: text
that spells one is ordinary text, unless the caller says that it may be special.

The pattern is GPT-2's: Radford et al. (2019), Language Models are Unsupervised Multitask Learners.
"""

from collections import Counter

import regex

from common.errors import UserError
from common.exercise import exercise

from .basic_bpe import BasicBPE, check_size, count_pairs, merge, most_frequent
from .byte_tokenizer import to_bytes

# A contraction; a word, a number or punctuation, each with at most one space before it; white space, the
# last space left to the word behind it.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


@exercise
def split_special(text, special):
    """Cut out the special tokens: "a<|end|>b" -> ["a", "<|end|>", "b"]. Where one special token begins
    another, the longest wins.

    `special` is a set of strings; with none the whole text is one part. Empty parts are left out.
    """
    if not special:
        return [text] if text else []
    longest_first = sorted(special, key=len, reverse=True)
    return [part for part in regex.split(f"({'|'.join(map(regex.escape, longest_first))})", text) if part]


def allowed(special, allowed_special):
    """The special tokens that may be read in a text: "all", or a collection of their names. An unknown
    name: UserError."""
    if allowed_special == "all":
        return set(special)
    unknown = set(allowed_special) - set(special)
    if unknown:
        raise UserError(f"{sorted(unknown)[0]!r} is no special token; there are {sorted(special) or 'none'}")
    return set(allowed_special)


class RegexBPE(BasicBPE):
    """merges as in rung 2; special: {token: id}, above all merges."""

    def __init__(self, merges=None, special_tokens=(), pattern=GPT2_PATTERN):
        super().__init__(merges)
        self.pattern = regex.compile(pattern)
        self.special = {token: 256 + len(self.merges) + i for i, token in enumerate(special_tokens)}
        self.vocab |= {i: to_bytes(token) for token, i in self.special.items()}

    @classmethod
    def train(cls, text, vocab_size, special_tokens=(), pattern=GPT2_PATTERN):
        """vocab_size counts the 256 bytes, the merges and the special tokens. The text's own special tokens
        are cut out, never merged."""
        check_size(vocab_size, len(special_tokens))
        parts = (part for part in split_special(text, set(special_tokens)) if part not in special_tokens)
        counted = Counter(piece for part in parts for piece in regex.findall(pattern, part))
        words = [(list(to_bytes(piece)), times) for piece, times in counted.items()]  # each piece once
        merges = {}
        while 256 + len(merges) + len(special_tokens) < vocab_size:
            counts = {}
            for ids, times in words:
                count_pairs(ids, counts, times)
            pair = most_frequent(counts) if counts else None
            if pair is None or counts[pair] < 2:
                break
            merges[pair] = 256 + len(merges)
            words = [(merge(ids, pair, merges[pair]), times) for ids, times in words]
        return cls(merges, special_tokens, pattern)

    @exercise
    def encode(self, text, allowed_special=()):
        """str -> list of ids. Special tokens in `allowed_special` (names, or "all") get their own id; the
        others are ordinary text.

        Cut out the special tokens, cut each part into pieces by self.pattern, and merge each piece by itself.
        """
        ids = []
        for part in split_special(text, allowed(self.special, allowed_special)):
            if part in self.special and part in allowed(self.special, allowed_special):
                ids.append(self.special[part])
            else:
                for piece in self.pattern.findall(part):
                    ids += self.merge_all(list(to_bytes(piece)))
        return ids
