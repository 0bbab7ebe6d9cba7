"""Rung 4: the same tokenizer, a thousand times faster, still in Python.

New here against rung 3, whose merges and ids it reproduces exactly:

1. *Count words, not text.* A text of half a million pieces has 18,000 different ones; each is kept once,
   with its count.
2. *Touch what changes.* Merging a pair changes the counts of its neighbours only, in the words that hold
   it: an index says which words those are, and a heap hands out the most frequent pair. Rung 3 counts
   everything again for each merge.
3. *Let C do the loops.* While training, a token is one character and a word a string: merging a pair is
   `split` and `join`. The characters are numbered in the order of `tie`, so that comparing two strings
   breaks ties as rung 2 does.
4. *Never encode a piece twice.* Encoding keeps a dictionary from piece to ids; a text repeats itself so
   much that after a while it is a look-up.
"""

import heapq
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice, pairwise

import regex

from common.errors import UserError
from common.exercise import exercise

from .basic_bpe import BYTE_ORDER, check_size
from .byte_tokenizer import join_bytes, to_bytes, to_text
from .regex_bpe import GPT2_PATTERN, allowed, split_special
from .tokenizer_json import from_json, to_json

# From this many bytes on, a heap finds the next merge faster than a look at every pair.
LONG = 64
# A byte, read as Latin-1, to the character of its place in the tie order.
SYMBOLS = str.maketrans({b: chr(k) for k, b in enumerate(BYTE_ORDER)})
# GPT-2's pattern, and GPT-4's, never reach from a non-space over a space: a text may be cut there.
CUT = regex.compile(r"(?<=\S)(?= )")


def cut(texts, special=(), size=1 << 16):
    """Regroup any stream of strings into chunks of about `size` characters, cut where no piece and no
    special token is torn.

    However the stream was divided, the pieces of the chunks are the pieces of the whole text. Holds at most
    one chunk and one string.
    """
    held, longest = "", max(map(len, special), default=1)
    for text in texts:
        held, start = held + text, 0
        while len(held) - start >= 2 * size and (end := find_cut(held, start + size, special, longest)):
            yield held[start:end]
            start = end
        held = held[start:]
    if held:
        yield held


def find_cut(text, start, special, longest):
    """The first place from `start` on where a text may be cut; None where there is none."""
    for place in CUT.finditer(text, start):
        at = place.start()
        if not any(token in text[max(0, at - longest + 1) : at + longest - 1] for token in special):
            return at
    return None


def count_pieces(chunk, pattern, special):
    """How often each piece of a chunk occurs, special tokens left out."""
    parts = (part for part in split_special(chunk, special) if part not in special)
    return Counter(chain.from_iterable(regex.findall(pattern, part) for part in parts))


def count_stream(texts, pattern, special, workers=0):
    """Counter of all pieces of a stream of strings; with workers, counted in as many processes. The same
    for any number of them."""
    chunks, total = cut(texts, special), Counter()
    if not workers:
        for chunk in chunks:
            total.update(count_pieces(chunk, pattern, special))
        return total
    with ProcessPoolExecutor(workers) as pool:
        while batch := list(islice(chunks, 8 * workers)):  # a few at a time: the text need not fit in memory
            for counted in pool.map(count_pieces, batch, [pattern] * len(batch), [special] * len(batch)):
                total.update(counted)
    return total


@exercise
def merge_word(word, pair, new):
    """Merge `pair` in a word; return the new word and how its pairs change.

    word: one character a token; pair: two characters; new: the character of the merged token. The changes
    are (pair of characters, +1 or -1), one for each occurrence that comes or goes beside a merge; the pair
    itself is left out. "xaby", "ab", "N" -> "xNy", [("xa", -1), ("xN", 1), ("by", -1), ("Ny", 1)]. Where
    two merges touch ("abab" -> "NN") the pair between them is counted once.
    """
    first, second = pair
    parts, changes = word.split(pair), []
    for i in range(len(parts) - 1):  # merge i stands between part i and part i + 1
        before, after = parts[i][-1:], parts[i + 1][:1]
        if before:
            changes += ((before + first, -1), (before + new, 1))
        elif i > 0:  # part i is empty: the merge before ends where this one begins
            changes += ((second + first, -1), (new + new, 1))
        if after:
            changes += ((second + after, -1), (new + after, 1))
    return new.join(parts), changes


def learn_merges(pieces, n_merges, min_frequency):
    """The merges, as pairs of characters, learned from {piece: count}; fewer where no pair occurs
    min_frequency times any more."""
    words = [to_bytes(piece).decode("latin-1").translate(SYMBOLS) for piece in pieces]
    times = list(pieces.values())
    counts = defaultdict(int)  # pair -> how often
    where = defaultdict(list)  # pair -> which words hold it, some of them no longer
    for i, word in enumerate(words):
        for pair in map("".join, pairwise(word)):
            counts[pair] += times[i]
            where[pair].append(i)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges = []
    while heap and len(merges) < n_merges:
        count, pair = heapq.heappop(heap)
        if counts[pair] != -count:  # counts fell since this entry was made: put it back where it belongs
            heapq.heappush(heap, (-counts[pair], pair))
            continue
        if -count < min_frequency:
            break
        new, grown = chr(256 + len(merges)), set()
        merges.append(pair)
        for i in where.pop(pair):
            if pair not in words[i]:  # listed twice, or merged away since
                continue
            words[i], changes = merge_word(words[i], pair, new)
            for other, change in changes:
                counts[other] += change * times[i]
                if change > 0:
                    where[other].append(i)
                    grown.add(other)
        counts[pair] = 0
        for other in grown:
            heapq.heappush(heap, (-counts[other], other))
    return merges


def train(text, vocab_size, special_tokens=(), pattern=GPT2_PATTERN, *, min_frequency=2, workers=0):
    """Learn a tokenizer of vocab_size ids: 256 bytes, merges, and the special tokens last.

    text: a string, or any iterable of strings (lines of a file larger than memory). Stops early where no
    pair occurs `min_frequency` times: the tokenizer then has fewer ids, len(bpe) of them. UserError for an
    empty text and for a vocabulary that does not hold the bytes.
    """
    check_size(vocab_size, len(special_tokens))
    texts = [text] if isinstance(text, str) else text
    pieces = count_stream(texts, pattern, frozenset(special_tokens), workers)
    if not pieces:
        raise UserError("the text is empty: there is nothing to learn a tokenizer from")
    tokens = [bytes([b]) for b in BYTE_ORDER]  # by character, as learn_merges numbers them
    ranks = {bytes([b]): b for b in range(256)}
    for left, right in learn_merges(pieces, vocab_size - 256 - len(special_tokens), min_frequency):
        tokens.append(tokens[ord(left)] + tokens[ord(right)])
        ranks[tokens[-1]] = len(tokens) - 1
    return BPE(ranks, {token: len(ranks) + i for i, token in enumerate(special_tokens)}, pattern)


@exercise
def merge_piece(piece, ranks):
    """bytes -> list of ids: the two neighbours whose joined bytes have the lowest rank become one, until no
    join has a rank.

    ranks: {bytes: id}; among equals the leftmost pair goes first. Every merge looks at every pair:
    quadratic in the length, which for a word of five letters is the fastest there is.
    """
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        ranked = [ranks.get(a + b, len(ranks) + (1 << 32)) for a, b in pairwise(parts)]
        best = min(ranked)
        i = ranked.index(best)
        if parts[i] + parts[i + 1] not in ranks:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[part] for part in parts]


def merge_long(piece, ranks):
    """merge_piece for a piece of any length, in n log n: a heap of pairs over a linked list. A megabyte of
    "aaaa" must not stop a server."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    after, before = list(range(1, len(parts) + 1)), list(range(-1, len(parts) - 1))

    def ranked(i):
        j = after[i]
        if j < len(parts) and (joined := parts[i] + parts[j]) in ranks:
            yield ranks[joined], i, parts[i], parts[j]

    heap = [entry for i in range(len(parts)) for entry in ranked(i)]
    heapq.heapify(heap)
    while heap:
        _, i, left, right = heapq.heappop(heap)
        j = after[i]
        if j == len(parts) or parts[i] != left or parts[j] != right:  # one of the two has been merged since
            continue
        parts[i], parts[j] = left + right, None
        after[i] = after[j]
        if after[i] < len(parts):
            before[after[i]] = i
        for k in (before[i], i):
            if k >= 0:
                for entry in ranked(k):
                    heapq.heappush(heap, entry)
    return [ranks[part] for part in parts if part is not None]


class BPE:
    """A byte-level BPE tokenizer. ranks: {bytes: id}, where a lower id was merged earlier; special: {token:
    id}."""

    def __init__(self, ranks, special=None, pattern=GPT2_PATTERN):
        self.ranks, self.special, self.pattern = dict(ranks), dict(special or {}), pattern
        self.vocab = {i: token for token, i in self.ranks.items()}
        self.vocab |= {i: to_bytes(token) for token, i in self.special.items()}
        self.split = regex.compile(pattern).findall
        self.known = {}  # piece -> its ids

    def __len__(self):
        return len(self.vocab)

    @exercise
    def encode(self, text, allowed_special=()):
        """str -> list of ids. Special tokens in `allowed_special` (names, or "all") get their own id; the
        others are ordinary text."""
        may, ids = allowed(self.special, allowed_special), []
        for part in split_special(text, may):
            if part in may:
                ids.append(self.special[part])
                continue
            pieces = self.split(part)
            for piece in set(pieces).difference(self.known):
                data = to_bytes(piece)
                merge = merge_piece if len(data) < LONG else merge_long
                self.known[piece] = [self.ranks[data]] if data in self.ranks else merge(data, self.ranks)
            ids += chain.from_iterable(map(self.known.__getitem__, pieces))
        return ids

    def encode_iterable(self, texts, allowed_special=()):
        """A stream of strings -> a stream of ids, the ids of the joined text; one chunk in memory at a
        time."""
        for chunk in cut(texts, allowed(self.special, allowed_special)):
            yield from self.encode(chunk, allowed_special)

    def decode(self, ids, errors="replace"):
        """list of ids -> str; an id that does not exist gives U+FFFD, with errors="strict" a UserError."""
        return to_text(join_bytes(self.vocab, ids, errors), errors)

    def save(self, folder):
        """Write tokenizer.json into a folder, in the format of the `tokenizers` library."""
        to_json(self, folder)

    @classmethod
    def load(cls, folder):
        """Read a folder's tokenizer.json, ours or another byte-level one, GPT-2's for example. UserError
        where it is something else."""
        return cls(*from_json(folder))
