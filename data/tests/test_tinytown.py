"""TinyTown's world and pages: the same everywhere, true, well formed, varied."""

import re
from itertools import combinations, islice

import pytest

from common.errors import UserError
from data.tinytown import TinyTown
from data.town_grammar import Grammar
from data.town_words import TRADES, VALUES

TOWN = TinyTown()
PAGES = [TOWN.page(number) for number in range(600)]


def test_people_are_who_they_are_for_good():
    assert len(TOWN.people) == 200 and TinyTown().people == TOWN.people
    assert TinyTown(seed=1).people != TOWN.people
    for person in TOWN.people:
        friend = TOWN.by_name[person.friend]
        assert friend.friend == person.name and friend != person
        assert person.work in TRADES[person.trade]
    pets = [(person.petname, person.pet) for person in TOWN.people]
    assert len(set(pets)) == len(pets)


@pytest.mark.parametrize("population", [0, 18, 201, -2])
def test_a_town_too_small_or_odd_is_refused(population):
    with pytest.raises(UserError, match="best friend"):
        TinyTown(population=population)


def test_no_value_holds_another():
    for values in VALUES.values():
        assert len(set(values)) == len(values)
        for one, other in combinations(values, 2):
            assert not re.search(rf"\b{re.escape(one)}\b", other), (one, other)
            assert not re.search(rf"\b{re.escape(other)}\b", one), (one, other)


def test_pages_are_a_pure_function_of_seed_and_number():
    assert list(islice(TOWN.pages(start=5), 3)) == PAGES[5:8]
    assert list(islice(TinyTown().pages(), 20)) == PAGES[:20]
    assert next(TOWN.pages(seed=1)) != PAGES[0]
    assert len(set(PAGES)) == len(PAGES)


def test_every_sentence_is_well_formed_and_every_fact_is_true():
    grammar = Grammar(TOWN)
    told = 0
    for page in PAGES[:250]:
        reading = grammar.read(page)
        assert reading.strange == [] and reading.false == [], page
        told += reading.true
    assert told > 2000
