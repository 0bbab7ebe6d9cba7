"""TinyTown's world, pages and documents: the same everywhere, true, well formed and varied."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations, islice
from pathlib import Path
from random import Random

import pytest

from common.errors import UserError
from data.tinytown import VERSION, TinyTown
from data.town_fillers import FILLERS
from data.town_nouns import NOUNS
from data.town_pages import ASKING, KINDS
from data.town_reading import SORTS
from data.town_scene import EVENTS, Scene, slots_of
from data.town_words import TRADES, VALUES

TOWN = TinyTown()
PAGES = [TOWN.page(number) for number in range(600)]
DIGEST = "ce65846941d37ea6"  # of 200 pages, the first 64 bits; the same on Python 3.10 to 3.13


def test_the_first_pages_are_what_this_version_says_everywhere():
    """A change of any text changes this sum: then VERSION goes up, and so do the numbers that stand on it."""
    found = hashlib.sha256("\n\n".join(PAGES[:200]).encode()).hexdigest()[:16]
    assert (VERSION, found) == ("3", DIGEST)


def test_pages_do_not_depend_on_the_hash_seed_of_the_process():
    code = "from data.tinytown import TinyTown; print(TinyTown().text(20000)[-200:])"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True,
                           cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": seed,
                                                               "PYTHONIOENCODING": "utf-8"},
                           encoding="utf-8").stdout for seed in ("1", "2")]
    assert runs[0] == runs[1] == TOWN.text(20000)[-200:] + "\n"


def test_people_are_who_they_are_for_good():
    assert len(TOWN.people) == 100 and TinyTown().people == TOWN.people
    assert TinyTown(seed=1).people != TOWN.people
    for person in TOWN.people:
        friend = TOWN.by_name[person.friend]
        assert friend.friend == person.name and friend != person
        assert person.work in TRADES[person.trade]
        assert person.she in ("she", "he") and (person.her == "his") == (person.she == "he")
    pets = [(person.petname, person.pet) for person in TOWN.people]
    assert len(set(pets)) == len(pets)


def test_two_pairs_of_each_person_are_held_out_and_spread_over_the_relations():
    assert len(TOWN.held_out) == 2 * len(TOWN.people)
    for person in TOWN.people:
        assert len(TOWN.askable(person, "held-out")) == 2 and len(TOWN.askable(person, "train")) == 6
    counts = Counter(relation for _, relation in TOWN.held_out)
    assert len(counts) == 8 and min(counts.values()) > 20
    assert set(TOWN.pairs["train"]).isdisjoint(TOWN.pairs["held-out"])


@pytest.mark.parametrize("population", [0, 18, 201, -2])
def test_a_town_too_small_or_odd_is_refused(population):
    with pytest.raises(UserError, match="best friend"):
        TinyTown(population=population)


def test_a_small_town_and_a_large_one_work():
    for population in (20, 400):
        town = TinyTown(population=population)
        assert len(town.people) == population and town.grammar_score(town.text(3000)) == 1.0


def test_no_value_holds_another():
    for values in VALUES.values():
        assert len(set(values)) == len(values)
        for one, other in combinations(values, 2):
            assert not re.search(rf"\b{re.escape(one)}\b", other), (one, other)
            assert not re.search(rf"\b{re.escape(other)}\b", one), (one, other)


def test_names_are_no_words():
    words = set(re.findall(r"\b[a-z]+\b", " ".join(PAGES)))
    assert not [person.name for person in TOWN.people if person.name.lower() in words]
    assert not set(VALUES["petname"]) & set(TOWN.by_name)


def test_pages_are_a_pure_function_of_seed_and_number():
    assert list(islice(TOWN.pages(start=5), 3)) == PAGES[5:8]
    assert list(islice(TinyTown().pages(), 20)) == PAGES[:20]
    assert next(TOWN.pages(seed=1)) != PAGES[0]
    assert len(set(PAGES)) == len(PAGES)
    text = TOWN.text(5000, start=2)
    assert text.startswith(PAGES[2]) and 5000 <= len(text) < 7000
    assert TOWN.text(0) == ""


def test_every_sentence_is_well_formed_and_every_fact_is_true():
    told = 0
    for page in PAGES[:250]:
        reading = TOWN.grammar.read(page)
        assert reading.strange == [] and reading.false == [], page
        told += reading.true
    assert told > 2000


@pytest.mark.parametrize("kind", [*KINDS, *ASKING])
def test_every_kind_of_page_is_well_formed_and_true(kind):
    make = (KINDS | ASKING)[kind][0]
    for seed in range(12):
        page = make(Scene(TOWN, Random(seed)))
        reading = TOWN.grammar.read(page)
        assert reading.strange == [] and reading.false == [] and reading.well_formed >= 3, page
        assert not re.search(r"  |[{}]| [.,!?]|\ba [aeio]|\ban (?!hour|honest)[^aeiou]", page), page


def test_scores_see_what_is_false_and_what_is_no_sentence():
    mara, other = TOWN.people[0], next(p for p in TOWN.people if p.work != TOWN.people[0].work)
    true, false = f"{mara} works at {mara.work}.", f"{mara} works at {other.work}."
    assert TOWN.truth_score(true) == 1.0 and TOWN.truth_score(false) == 0.0
    assert TOWN.truth_score(f"{true} {false}") == 0.5 and TOWN.grammar_score(f"{true} {false}") == 1.0
    assert TOWN.grammar_score(f"{mara} work at {mara.work}. {true}") == 0.5
    assert TOWN.grammar_score(true.replace("works at", "at works")) == 0.0
    assert TOWN.truth_score(f"{mara} plays {mara.instrument}. {mara.She} works at {other.work}.") == 0.5
    wrong = "He" if mara.She == "She" else "She"
    assert TOWN.grammar_score(f"{mara} plays {mara.instrument}. {wrong} works at {mara.work}.") == 0.5
    assert TOWN.truth_score("Ada Finch works at the inn.") == 0.0, "of strangers the town knows nothing"
    shuffled = " ".join(sorted(PAGES[0].split(), key=str.lower))
    assert TOWN.grammar_score(shuffled) < 0.2
    assert TOWN.grammar_score("") == TOWN.truth_score("") == 0.0
    assert TOWN.grammar_score(f"{true} And then the") == 1.0, "a sentence without an end does not count"


def test_there_are_more_than_a_million_sentences():
    """Exactly: the product of what each slot can be. By sample: how rarely two samples say the same thing."""
    sizes = {slot: len(values) for slot, values in FILLERS.items()}
    sizes |= {"a": 100, "b": 1, "c": 50, "p": 20, "q": 20}  # {b} follows from {a}; the rest are lower bounds
    total = 0
    for line in EVENTS:
        product = 1
        for letter in {slot.partition(".")[0] for slot in slots_of(line)}:
            product *= sizes[letter]
        total += product
    assert total > 1_000_000
    samples = [set(re.split(r"(?<=[.!?”])\s+", TOWN.text(700_000, seed=seed))) for seed in (1, 2)]
    shared = len(samples[0] & samples[1])
    assert shared < 0.35 * len(samples[0])


def test_the_vocabulary_is_that_of_a_childrens_book():
    """Pages and rows together: a few thousand words; the pages alone do with fewer."""
    rows = [turn["content"] for row in islice(TOWN.instructions(), 12_000) for turn in row["messages"]]
    pages, lists = ({word.lower() for word in re.findall(r"[A-Za-z]+", text)}
                    for text in (TOWN.text(2_000_000), " ".join(rows)))  # fmt: skip
    assert 1500 < len(pages) < 5000
    assert 2400 < len(pages | lists) < 5000


def test_what_a_list_holds_is_of_no_sort_that_is_asked_for():
    asked = {word for sort in SORTS.values() for value in sort for word in value.split()}
    assert len(set(NOUNS)) == len(NOUNS) and not asked & set(NOUNS)


def test_every_noun_of_a_list_is_met_in_training():
    """So none is new in a held-out row, whose lists draw from the same ones."""
    rows = islice(TOWN.instructions(families=("reverse", "sort")), 4000)
    turns = [turn for row in rows for turn in row["messages"]]
    said = {word for turn in turns for word in re.findall(r"[a-z]+", turn["content"])}
    assert set(NOUNS) <= said


@pytest.mark.parametrize("asking", [0.0, 0.15, 0.5])
def test_questions_are_the_share_of_the_text_that_was_asked_for(asking):
    town = TinyTown(asking=asking)
    titles = r"(Questions about|How well do you know|Ask me about|A visitor came to) Tinytown"
    pages = list(islice(town.pages(), 3000))
    asked = sum(len(page) for page in pages if re.match(titles, page))
    assert asked / sum(map(len, pages)) == pytest.approx(asking, abs=0.02)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UserError, match="share"):
        TinyTown(asking=1.5)


@pytest.mark.parametrize("n_tokens", [400, 4096, 65_536])
def test_documents_have_their_length_and_their_facts_where_they_say(n_tokens):
    found = TOWN.document(n_tokens, seed=n_tokens)
    assert 0.9 * n_tokens - 60 < found.n_tokens <= n_tokens
    assert len(found.needles) == 7
    for needle in found.needles:
        sentence = found.text[needle.start:needle.end]
        assert sentence.endswith(".") and found.text[needle.answer_start:needle.answer_end] == needle.answer
        assert needle.start <= needle.answer_start < needle.answer_end <= needle.end
        name = re.search(r"A visitor called ([A-Z]\w+ [A-Z]\w+)", sentence).group(1)
        assert found.text.count(name) == 1 and name in needle.question
    assert TOWN.document(n_tokens, seed=n_tokens) == found


def test_documents_put_a_needle_at_the_depth_that_was_asked_for():
    for depth in (0.0, 0.25, 0.5, 0.9, 1.0):
        needle, = TOWN.document(8000, seed=3, depths=(depth,)).needles
        assert needle.depth == pytest.approx(depth, abs=0.03)
    assert TOWN.document(500, depths=()).needles == ()


def test_documents_take_any_measure_of_length():
    found = TOWN.document(9000, length=len)
    assert 8500 < len(found.text) <= 9000 == max(9000, found.n_tokens)
    reading = TOWN.grammar.read(re.sub(r"A visitor called .*?\.(?= |\n|$)|^\w+ of year \d+$", "", found.text,
                                       flags=re.MULTILINE))
    assert reading.false == [] and reading.grammar > 0.95


@pytest.mark.parametrize("arguments", [{"n_tokens": 60}, {"n_tokens": 0},
                                       {"n_tokens": 900, "depths": (1.5,)}])
def test_documents_that_cannot_be_are_refused(arguments):
    with pytest.raises(UserError):
        TOWN.document(**arguments)
