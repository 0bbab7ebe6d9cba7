"""The ladder, rung by rung: what each function must do, in cases small enough to check by hand."""

import random

import numpy as np
import pytest
import regex

from common.errors import UserError
from common.proofs import prove
from phase01_foundation.project02_tokenizer.basic_bpe import BasicBPE, count_pairs, merge, most_frequent
from phase01_foundation.project02_tokenizer.byte_tokenizer import ByteTokenizer
from phase01_foundation.project02_tokenizer.fast_bpe import (
    BPE,
    cut,
    merge_long,
    merge_piece,
    merge_word,
    train,
)
from phase01_foundation.project02_tokenizer.regex_bpe import GPT2_PATTERN, RegexBPE, split_special
from phase01_foundation.project02_tokenizer.vector_bpe import piece_starts

SPECIAL = ("<|endoftext|>", "<|im_start|>")
TEXT = (
    "The miller's dog, the old brown dog, isn't here. It's by the mill: 100 steps, then 20 more.\n\n"
    "Là-bas, l'été: où êtes-vous? 今日は、世界。 Здравствуй, мир! 👩‍👩‍👧 🙂🙂\ta\tb    c  \n"
) * 3
STRANGE = ["", " ", "\n", "a", "é", "\x00\x00", "e\u0301", "\u200d", "ﷺ", "🏳️\u200d🌈", "  x", "x  ", "٣٤"]


@pytest.mark.exercise("ByteTokenizer.encode")
def test_bytes_of_a_text():
    """A text becomes the bytes of its UTF-8."""
    assert ByteTokenizer().encode("aé🙂") == [97, 195, 169, 240, 159, 153, 130]
    assert ByteTokenizer().encode("") == []


@pytest.mark.exercise("ByteTokenizer.encode")
def test_a_lone_surrogate_is_refused():
    """Half a character has no bytes: a UserError that says where it stands."""
    with pytest.raises(UserError, match=r"character 2 .* U\+D83D"):
        ByteTokenizer().encode("ab\ud83d")


@pytest.mark.exercise("ByteTokenizer.decode")
def test_bytes_back_to_text():
    """Decoding undoes encoding."""
    for text in [TEXT, *STRANGE]:
        assert ByteTokenizer().decode(list(text.encode())) == text


@pytest.mark.exercise("ByteTokenizer.decode")
def test_ids_that_do_not_exist():
    """An unknown id, and bytes that are no character, become U+FFFD; with errors="strict" they are errors."""
    tokenizer = ByteTokenizer()
    assert tokenizer.decode([97, 9000, 98, -1]) == "a\ufffdb\ufffd"
    assert tokenizer.decode([97, 195]) == "a\ufffd"
    for ids, what in ([97, 9000], "id 9000 does not exist"), ([97, 195], "no character"):
        with pytest.raises(UserError, match=what):
            tokenizer.decode(ids, errors="strict")


@pytest.mark.exercise("count_pairs")
def test_pairs_are_counted():
    """Every place where two ids stand side by side counts, also where pairs overlap."""
    assert count_pairs([1, 2, 1, 2]) == {(1, 2): 2, (2, 1): 1}
    assert count_pairs([7, 7, 7]) == {(7, 7): 2}
    assert count_pairs([5]) == {} == count_pairs([])


@pytest.mark.exercise("count_pairs")
def test_counts_add_up_over_words():
    """A word that occurs three times counts three times, on top of what was counted before."""
    counts = count_pairs([1, 2])
    assert count_pairs([1, 2, 3], counts, times=3) == {(1, 2): 4, (2, 3): 3}


@pytest.mark.exercise("merge")
def test_merge_goes_from_left_to_right():
    """Of three in a row the first two become one; nothing is merged twice, nothing is lost at the ends."""
    assert merge([1, 1, 1, 2], (1, 1), 9) == [9, 1, 2]
    assert merge([2, 1, 2, 1], (1, 2), 9) == [2, 9, 1]
    assert merge([1, 2, 1, 2], (1, 2), 9) == [9, 9]
    assert merge([3], (3, 3), 9) == [3]
    ids = [1, 2, 3]
    merge(ids, (1, 2), 9)
    assert ids == [1, 2, 3], "the list that came in must stay as it was"


@pytest.mark.exercise("most_frequent")
def test_the_most_frequent_pair_wins():
    """The highest count wins; among equals the pair that sorts first: printable bytes before others, merges
    last."""
    assert most_frequent({(97, 98): 2, (99, 100): 5}) == (99, 100)
    assert most_frequent({(99, 97): 5, (97, 99): 5}) == (97, 99)
    assert most_frequent({(32, 97): 5, (97, 32): 5}) == (97, 32), "the space sorts after the letters"
    assert most_frequent({(300, 97): 5, (10, 97): 5}) == (10, 97), "merges sort behind all bytes"


@pytest.mark.exercise("BasicBPE.merge_all", "count_pairs", "merge", "most_frequent")
def test_the_example_of_sennrich():
    """The worked example of byte-pair encoding: aaabdaaabac becomes XdXac with Z=aa, Y=ab, X=ZY."""
    bpe = BasicBPE.train("aaabdaaabac", 256 + 3)
    assert list(bpe.merges) == [(97, 97), (97, 98), (256, 257)]
    assert bpe.encode("aaabdaaabac") == [258, 100, 258, 97, 99]
    assert bpe.decode([258, 100, 258, 97, 99]) == "aaabdaaabac"


@pytest.mark.exercise("BasicBPE.merge_all")
def test_merges_apply_in_the_order_they_were_learned():
    """"bc" was learned before "ab": abc is a + bc, whichever stands first in the text."""
    bpe = BasicBPE({(98, 99): 256, (97, 98): 257})
    assert bpe.encode("abc") == [97, 256]
    assert bpe.encode("ab") == [257]
    assert bpe.merge_all([97]) == [97]
    assert bpe.merge_all([]) == []


@pytest.mark.exercise("BasicBPE.merge_all")
def test_later_merges_use_what_earlier_ones_made():
    """A merge of merges is found: ((a b) (a b)) is one id in the end."""
    bpe = BasicBPE({(97, 98): 256, (256, 256): 257})
    assert bpe.encode("ababab") == [257, 256]


@pytest.mark.exercise("split_special")
def test_special_tokens_are_cut_out():
    """Text and special tokens come in turn, empty parts left out."""
    assert split_special("a<|e|>b<|e|><|e|>", {"<|e|>"}) == ["a", "<|e|>", "b", "<|e|>", "<|e|>"]
    assert split_special("a.b*c", {".", "*"}) == ["a", ".", "b", "*", "c"], "plain text, not patterns"
    assert split_special("a", set()) == ["a"]
    assert split_special("", {"<|e|>"}) == split_special("", set()) == []


@pytest.mark.exercise("split_special")
def test_the_longest_special_token_wins():
    """Where one special token begins another, the longer one is read."""
    assert split_special("x<|e|>y", {"<|", "<|e|>"}) == ["x", "<|e|>", "y"]


@pytest.fixture(scope="module")
def rungs():
    """The same text learned by rung 3 and by rung 4."""
    return RegexBPE.train(TEXT, 360, SPECIAL), train(TEXT, 360, SPECIAL)


@pytest.mark.exercise("RegexBPE.encode")
def test_merges_stay_inside_a_piece(rungs):
    """No id reaches from a word over the space before the next, or from a letter to a full stop."""
    regex_bpe, _ = rungs
    assert [regex_bpe.decode([i]) for i in regex_bpe.encode(" dog dog.")] == [" dog", " dog", "."]
    two_spaces = RegexBPE({(32, 32): 256})
    assert two_spaces.encode("  a") == [32, 32, 97], "the second space belongs to the word"
    assert two_spaces.encode("   a") == [256, 32, 97]


@pytest.mark.exercise("RegexBPE.encode")
def test_special_tokens_only_where_allowed(rungs):
    """Text that spells a special token is ordinary text, until the caller allows it; then it is one id."""
    regex_bpe, _ = rungs
    text = "a<|endoftext|>b<|im_start|>"
    end, start = regex_bpe.special["<|endoftext|>"], regex_bpe.special["<|im_start|>"]
    assert not {end, start} & set(regex_bpe.encode(text))
    assert regex_bpe.encode(text, "all") == [97, end, 98, start]
    only = regex_bpe.encode(text, ["<|endoftext|>"])
    assert end in only and start not in only
    for ids in (regex_bpe.encode(text), only):
        assert regex_bpe.decode(ids) == text
    with pytest.raises(UserError, match="is no special token"):
        regex_bpe.encode(text, ["<|other|>"])


@pytest.mark.exercise("merge_word")
def test_merge_word_reports_what_changes():
    """The new word, and for each merge the pairs beside it that go and come."""
    assert merge_word("xaby", "ab", "N") == ("xNy", [("xa", -1), ("xN", 1), ("by", -1), ("Ny", 1)])
    assert merge_word("ab", "ab", "N") == ("N", [])
    assert merge_word("xy", "ab", "N") == ("xy", [])


@pytest.mark.exercise("merge_word")
def test_merge_word_keeps_the_counts_right():
    """Whatever the word, the counts changed by hand equal the counts made anew."""
    rng = random.Random(0)
    for _ in range(500):
        word, pair = ("".join(rng.choices("abc", k=n)) for n in (rng.randrange(1, 12), 2))
        new_word, changes = merge_word(word, pair, "N")
        assert new_word == word.replace(pair, "N")
        counts = count_pairs(word)
        for (first, second), change in changes:
            counts[first, second] = counts.get((first, second), 0) + change
        counts.pop(tuple(pair), None)
        assert {p: n for p, n in counts.items() if n} == count_pairs(new_word), (word, pair)


@pytest.mark.exercise("merge_piece")
def test_merge_piece_takes_the_lowest_rank_first():
    """The join with the lowest rank goes first, the leftmost among equals, until nothing joins."""
    ranks = {bytes([b]): b for b in range(256)} | {b"bc": 256, b"ab": 257, b"aa": 258, b"aaa": 259}
    assert merge_piece(b"abc", ranks) == [97, 256]
    assert merge_piece(b"aaaaa", ranks) == [258, 259]
    assert merge_piece(b"xyz", ranks) == [120, 121, 122]
    assert merge_piece(b"q", ranks) == [113]


@pytest.mark.exercise("BPE.encode")
def test_fast_rung_gives_the_slow_rungs_ids(rungs):
    """Rung 4 learns the merges of rung 3, and gives its ids on text that neither has seen."""
    slow, fast = rungs
    assert {token: i for i, token in slow.vocab.items() if token in fast.ranks} == fast.ranks
    for text in ["The mill's dogs, 2000 of them!\n\n été 🙂", *STRANGE, "a<|endoftext|>"]:
        assert fast.encode(text) == slow.encode(text), text
        assert fast.encode(text, "all") == slow.encode(text, "all"), text


@pytest.mark.exercise("BPE.encode")
def test_round_trip(rungs):
    """Decoding gives the text back, whatever it is made of."""
    _, fast = rungs
    for text in [TEXT, *STRANGE]:
        assert fast.decode(fast.encode(text)) == text
        assert fast.decode(fast.encode(text)) == text, "and again, from what was remembered"


@pytest.mark.exercise("piece_starts")
def test_pieces_begin_where_the_pattern_cuts():
    """On ASCII text the comparisons find exactly the places where GPT-2's pattern begins a piece."""
    rng, bits = random.Random(0), ["'s", "'ll", "'ve", "'re", " ", "  ", "\n", "a", "l", "1", "!", "'", "x'"]
    drawn = ["".join(rng.choices(bits, k=rng.randrange(1, 10))) for _ in range(3000)]
    for text in ["it's", "x'll", "'", "a  b", "a\tb", *drawn]:
        starts = piece_starts(np.frombuffer(text.encode(), np.uint8))
        expected = [found.start() for found in regex.finditer(GPT2_PATTERN, text)]
        assert np.flatnonzero(starts).tolist() == expected, repr(text)


def test_a_long_piece_is_merged_like_a_short_one(rungs):
    """The heap for pieces of any length gives what the simple loop gives."""
    _, fast = rungs
    rng = random.Random(0)
    for _ in range(200):
        piece = bytes(rng.choices(b" dogthe\xc3\xa9", k=rng.randrange(1, 120)))
        assert merge_long(piece, fast.ranks) == merge_piece(piece, fast.ranks)
    assert fast.decode(fast.encode("a" * 200_000)) == "a" * 200_000


@pytest.mark.parametrize("size", [1, 3, 40])
def test_the_cut_of_a_stream_changes_nothing(rungs, size):
    """However the text arrives, in letters or in pages, the ids are those of the whole."""
    _, fast = rungs
    rng, text, parts = random.Random(size), TEXT * 4 + "<|endoftext|> end", []
    while text:
        n = rng.randint(1, size)
        parts.append(text[:n])
        text = text[n:]
    whole = "".join(parts)
    for special in ((), "all"):
        assert list(fast.encode_iterable(parts, special)) == fast.encode(whole, special)
    chunks = list(cut(parts, ["dog, the"], size=50))
    assert len(chunks) > 5 and "".join(chunks) == whole
    assert sum(c.count("dog, the") for c in chunks) == whole.count("dog, the"), "a special token was torn"
    assert train(parts, 340, SPECIAL).ranks == train(whole, 340, SPECIAL).ranks


def test_workers_change_nothing():
    """Two processes count what one counts."""
    lines = TEXT.splitlines(keepends=True) * 40
    assert train(lines, 330, SPECIAL, workers=2).ranks == train(lines, 330, SPECIAL).ranks


def test_layout_of_the_ids():
    """Byte b is id b, merge i is 256 + i, the special tokens come last."""
    bpe = train(TEXT, 300, SPECIAL)
    assert all(bpe.ranks[bytes([b])] == b for b in range(256))
    assert sorted(bpe.ranks.values()) == list(range(298))
    assert bpe.special == {"<|endoftext|>": 298, "<|im_start|>": 299} and len(bpe) == 300


def test_too_little_text_stops_early():
    """Where no pair occurs twice any more, training stops and the tokenizer says how many ids it has."""
    bpe = train("ab ab ab xyz", 1000, SPECIAL)
    assert 258 < len(bpe) < 270 and bpe.special["<|im_start|>"] == len(bpe) - 1
    assert len(RegexBPE.train("ab ab ab xyz", 1000, SPECIAL).vocab) == len(bpe)


def test_bad_sizes_and_empty_text():
    """A vocabulary without room for the bytes, and a text without a letter, are refused in one line."""
    for learn in (train, RegexBPE.train):
        with pytest.raises(UserError, match="at least 258"):
            learn(TEXT, 257, SPECIAL)
    with pytest.raises(UserError, match="at least 256"):
        BasicBPE.train(TEXT, 100)
    with pytest.raises(UserError, match="empty"):
        train("", 300)


def test_tokens_are_unique(rungs):
    """Two different merges never spell the same bytes, so a rank belongs to one token."""
    _, fast = rungs
    assert len(set(fast.vocab.values())) == len(fast.vocab)


def test_fast_bpe_is_a_bpe():
    """A tokenizer can be made from ranks alone; without merges it is rung 1."""
    plain = BPE({bytes([b]): b for b in range(256)})
    assert plain.encode("aé") == ByteTokenizer().encode("aé")


def test_wrong_solutions_are_caught():
    """For every exercise: the stub fails, the reference passes, each wrong solution fails."""
    prove(__file__)
