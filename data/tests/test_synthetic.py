"""The synthetic-data lab: MinHash against brute force, labels against what is found, splits that hold."""

import itertools
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data import minhash, synthetic
from data.tinytown import TinyTown

PAGES = [TinyTown().page(number) for number in range(250)]
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def brute_force(documents, threshold, n=5):
    """Every pair compared, word by word: the oracle. Returns what stays and what is dropped."""
    def runs(text):
        words = minhash.normal(text).split()
        return {tuple(words[i:i + n]) for i in range(max(1, len(words) - n + 1))}
    sets = [runs(text) for text in documents]
    kept, dropped = [], []
    for i, mine in enumerate(sets):
        alike = any(len(mine & sets[j]) / len(mine | sets[j]) >= threshold for j in kept)
        (dropped if alike else kept).append(i)
    return kept, dropped


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_dedupe_equals_brute_force(threshold):
    documents, _ = synthetic.add_copies(PAGES[:120], share=1.0, edits=0.03, seed=4)
    kept, dropped = brute_force(documents, threshold)
    found = minhash.dedupe(documents, threshold)
    assert dropped and found.kept == kept and sorted(found.copy_of) == dropped
    assert found.compared < len(documents) ** 2 / 20, "the bands must spare most of the pairs"


def test_signatures_agree_as_often_as_documents_resemble_each_other():
    functions = minhash.hash_functions(2048, seed=1)
    rng = Random(0)
    for edits in (0.0, 0.02, 0.1, 0.5):
        copy = synthetic.near_copy(PAGES[0], edits, rng)
        one, other = minhash.shingles(PAGES[0]), minhash.shingles(copy)
        agree = np.mean(minhash.signature(one, *functions) == minhash.signature(other, *functions))
        assert agree == pytest.approx(minhash.jaccard(one, other), abs=0.05)  # 4.5 sd of a mean of 2048


def test_bands_catch_a_pair_at_the_threshold():
    for threshold in (0.3, 0.5, 0.7, 0.9, 1.0):
        rows = minhash.rows_per_band(threshold, 128)
        assert 1 - (1 - threshold ** rows) ** (128 // rows) >= 0.995 or rows == 1
    assert minhash.rows_per_band(0.9, 128) > minhash.rows_per_band(0.5, 128) > 1


def test_labelled_copies_are_found_and_scored():
    documents, labels = synthetic.add_copies(PAGES, share=0.5, edits=0.01, seed=2)
    assert len(documents) == 375 and all(0 <= label < 250 for label in labels)
    precision, recall = minhash.pair_score(labels, minhash.dedupe(documents, 0.6))
    assert precision == 1.0 and recall > 0.95
    _, sharper = minhash.pair_score(labels, minhash.dedupe(documents, 1.0))
    assert sharper < recall
    nothing = minhash.Deduped(list(range(375)), {}, 0)
    assert minhash.pair_score(labels, nothing) == (0.0, 0.0)


def test_edge_cases_of_dedupe():
    assert minhash.dedupe([]) == ([], {}, 0)
    assert minhash.dedupe(["", "", "one word", "One  WORD!"]).copy_of == {1: 0, 3: 2}
    with pytest.raises(UserError, match="threshold"):
        minhash.dedupe(["a"], threshold=0.0)


@pytest.mark.parametrize("kind", list(synthetic.NOISE))
def test_noise_spoils_the_labelled_documents_and_no_other(kind):
    spoiled, labels = synthetic.add_noise(PAGES, share=0.3, level=0.3, kind=kind, seed=5)
    assert [text != page for text, page in zip(spoiled, PAGES, strict=True)] == labels
    assert 50 < sum(labels) < 100
    assert synthetic.add_noise(PAGES, 0.3, 0.3, kind, seed=5) == (spoiled, labels)
    assert synthetic.add_noise(PAGES, 1.0, 0.0, kind).documents == PAGES


def test_quality_filters_find_what_noise_did_and_say_why():
    spoiled, labels = synthetic.add_noise(PAGES, share=0.3, level=0.6, kind="symbols", seed=6)
    found, before = synthetic.quality_filter(spoiled), synthetic.quality_filter(PAGES)
    assert len(before.dropped) < 0.1 * len(PAGES)  # lists have few stop words
    assert {i for i in found.dropped if not labels[i]} <= set(before.dropped)
    assert sum(labels[i] for i in found.dropped) > 0.9 * sum(labels)
    assert sum(found.counts.values()) == len(found.dropped) == len(PAGES) - len(found.kept)


@pytest.mark.parametrize("text, reason", [
    ("Too short.", "too short"), ("the end of a word " * 60, "repeated runs"),
    ("a line that is here again\n" * 40, "repeated lines"),
    ("zwei drei vier fünf sechs " * 8, "no stop words"),
    (" ".join(f"the {'x' * 30}{i} and" for i in range(30)), "word length"),
    (" ".join(f"the %$#@! {{{i}}} and" for i in range(40)), "symbols"),
])
def test_each_flaw_is_named(text, reason):
    assert reason in synthetic.flaws(text, synthetic.Quality())


def test_too_long_is_a_flaw_of_its_own():
    assert synthetic.flaws("word " * 50, synthetic.Quality(max_words=40)) == ["too long"]


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_has_a_split_and_a_verdict(text):
    assert synthetic.split_of(text, SHARES) in SHARES
    assert isinstance(synthetic.flaws(text, synthetic.Quality(min_words=0)), list)
    assert minhash.dedupe([text, text]).copy_of == {1: 0}


def test_splits_keep_their_shares_and_never_part_equal_documents():
    parts = synthetic.split(PAGES, SHARES)
    assert sorted(itertools.chain(*parts.values())) == list(range(len(PAGES)))
    assert len(parts["train"]) == pytest.approx(0.8 * len(PAGES), rel=0.1)
    for page in PAGES[:50]:
        twin = "  ".join(page.upper().replace(".", " !").split())
        assert synthetic.split_of(page, SHARES) == synthetic.split_of(twin, SHARES)
    assert parts != synthetic.split(PAGES, SHARES, salt="another")


def test_near_copies_go_where_their_originals_go():
    documents, _ = synthetic.add_copies(PAGES, share=0.6, edits=0.01, seed=3)
    copies = minhash.dedupe(documents, 0.6).copy_of
    parts = synthetic.split(documents, SHARES, copies=copies)
    where = {i: name for name, part in parts.items() for i in part}
    assert copies and all(where[i] == where[original] for i, original in copies.items())
    apart = {i: name for name, part in synthetic.split(documents, SHARES).items() for i in part}
    assert any(apart[i] != apart[original] for i, original in copies.items()), "else the test shows nothing"


@pytest.mark.parametrize("shares", [{"train": 0.5}, {"train": 1.5, "test": -0.5}])
def test_shares_that_do_not_sum_to_one_are_refused(shares):
    with pytest.raises(UserError, match="sum to 1"):
        synthetic.split_of("text", shares)


@pytest.mark.parametrize("call", [
    lambda: synthetic.add_noise(PAGES, 2.0, 0.1), lambda: synthetic.add_noise(PAGES, 0.1, -1),
    lambda: synthetic.add_noise(PAGES, 0.1, 0.1, "static"), lambda: synthetic.add_copies(PAGES, -1)])
def test_impossible_noise_is_refused(call):
    with pytest.raises(UserError):
        call()
