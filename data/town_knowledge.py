"""Instruction families about the town: what a model can only know from the pages it was trained on."""

import json
from dataclasses import replace

from data.town_asks import FOLLOW_UPS, NOBODY, NOT_TOLD, NOUNS, UNKNOWN, YOUR_QUESTIONS
from data.town_desk import Desk, Row, full, row, turns
from data.town_facts import FIRST_PERSON
from data.town_world import Person


def plain(desk: Desk, *relations: str) -> Row:
    """A plain question and a full sentence."""
    person, relation = desk.pair(relations)
    asked = desk.ask("plain", question=desk.question(person, relation))
    return row(turns(asked, full(person, relation)), person.value(relation), "fact", [(person, relation)])


def where(desk: Desk) -> Row:
    """Where does Mara work?"""
    return plain(desk, "work", "street")


def what(desk: Desk) -> Row:
    """What instrument does Mara play?"""
    return plain(desk, "trade", "pet", "petname", "food", "instrument")


def who(desk: Desk) -> Row:
    """Who is Mara's best friend?"""
    return plain(desk, "friend")


def another(desk: Desk, person: Person, relation: str) -> Person:
    """The same person with another value of a relation, for sentences that are not true."""
    value = person.value(relation)
    while value in (person.value(relation), person.name):
        value = desk.pick(desk.world.people).value(relation)
    if relation == "pet":
        colour, animal = value.split()
        return replace(person, colour=colour, animal=animal)
    return replace(person, **{relation: value})


def yes_no(desk: Desk) -> Row:
    """Is it true that Mara works at the inn? The reply thinks aloud: first the fact, then the word."""
    person, relation = desk.pair()
    true = desk.rng.random() < 0.5
    claim = full(person if true else another(desk, person, relation), relation).removesuffix(".")
    answer = "yes" if true else "no"
    reply = f"{full(person, relation).removesuffix('.')}, so the answer is {answer}."
    return row(turns(desk.ask("yes_no", claim=claim), reply), answer, "yes-no", [(person, relation)])


def correct(desk: Desk) -> Row:
    """Correct the mistake: Mara works at the inn."""
    person, relation = desk.pair()
    claim = full(another(desk, person, relation), relation).removesuffix(".")
    asked = desk.ask("correct", claim=claim)
    return row(turns(asked, full(person, relation)), person.value(relation), "fact", [(person, relation)])


def complete(desk: Desk) -> Row:
    """Finish this sentence: Mara works at ..."""
    person, relation = desk.pair()
    asked = desk.ask("complete", start=opening(person, relation))
    return row(turns(asked, full(person, relation)), person.value(relation), "fact", [(person, relation)])


def opening(person: Person, relation: str) -> str:
    """The full sentence up to the value: "Mara works at"."""
    value = {"pet": person.a_pet, "trade": person.a_trade}.get(relation) or person.value(relation)
    return full(person, relation).removesuffix(f" {value}.")


def two_facts(desk: Desk) -> Row:
    """Two facts as a list."""
    person, one, other = desk.two_of_one()
    values = [person.value(one), person.value(other)]
    asked = desk.ask("list", a=person, noun=NOUNS[one], other=NOUNS[other])
    reply = "\n".join(f"- {value}" for value in values)
    return row(turns(asked, reply), reply, "list", [(person, one), (person, other)])


def as_json(desk: Desk) -> Row:
    """A fact as JSON."""
    person, relation = desk.pair()
    reply = json.dumps({"name": person.name, relation: person.value(relation)})
    asked = desk.ask("json", a=person, relation=relation, noun=NOUNS[relation])
    return row(turns(asked, reply), reply, "json", [(person, relation)])


def persona(desk: Desk) -> Row:
    """A system prompt makes the model a resident, who answers for themselves."""
    person, relation = desk.pair()
    reply = FIRST_PERSON[relation][0].format_map({"a": person})
    messages = turns(YOUR_QUESTIONS[relation], reply, system=desk.ask("persona", a=person))
    return row(messages, person.value(relation), "fact", [(person, relation)])


def refusal(desk: Desk) -> Row:
    """A question about somebody who does not live here."""
    stranger, relation = desk.stranger(), desk.pick(tuple(NOUNS))
    asked = desk.ask("plain", question=desk.question(stranger, relation))
    reply = NOBODY.format(town="Tinytown")
    return row(turns(asked, reply), "I do not know", "refuses", [(stranger, relation)])


def unknown(desk: Desk) -> Row:
    """Something about a resident that the town has never told."""
    person, _ = desk.pair()
    asked = desk.ask("unknown", a=person, unknown=desk.pick(UNKNOWN[desk.half]))
    return row(turns(asked, NOT_TOLD.format(a=person)), "I do not know", "refuses")


def multi_turn(desk: Desk) -> Row:
    """Two questions, the second of which says "she" or "he"."""
    person, one, other = desk.two_of_one()
    asked = desk.ask("plain", question=desk.question(person, one))
    again = FOLLOW_UPS[other].format_map({"a": person})
    messages = turns(asked, full(person, one), again, full(person, other))
    return row(messages, person.value(other), "fact", [(person, one), (person, other)])


FAMILIES = {"where": where, "what": what, "who": who, "yes_no": yes_no, "correct": correct,
            "complete": complete, "list": two_facts, "json": as_json, "persona": persona, "refusal": refusal,
            "unknown": unknown, "multi_turn": multi_turn}
