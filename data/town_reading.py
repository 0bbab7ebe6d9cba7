"""Instruction families about strangers and lists: all that is needed stands in the prompt."""

import json

from data.town_asks import NOT_IN_TEXT, WHO
from data.town_desk import Desk, Row, full, row, turns
from data.town_facts import FIRST_PERSON, FULL, RELATIONS
from data.town_fillers import PARTS
from data.town_nouns import NOUNS
from data.town_scene import PLOTS_IN, Scene
from data.town_words import VALUES
from data.town_world import Person

SORTS = {sort: tuple(value.removeprefix("the ") for value in VALUES[relation]) for sort, relation in
         (("animals", "animal"), ("instruments", "instrument"), ("places", "work"), ("trades", "trade"))}
PLAIN_WORDS = tuple(thing for thing in PARTS["odd_thing"] if " " not in thing)
LISTED = PLAIN_WORDS + NOUNS


def passage(desk: Desk) -> tuple[Scene, str, list[tuple[Person, str]]]:
    """Some lines about two or three strangers, and the pairs that they tell."""
    scene = desk.away()
    people = scene.some([scene[letter] for letter in "abcd"], 2 + scene.coin(0.5))
    text = " ".join(scene.portrait(person, 2) for person in people)
    told = [(person, relation) for person in people for relation in RELATIONS
            if (person.name, relation) in scene.told]
    return scene, text, told


def read(desk: Desk) -> Row:
    """A question that the text answers."""
    _, text, told = passage(desk)
    person, relation = desk.pick(told)
    asked = desk.ask("read", text=text, question=desk.question(person, relation))
    reply = row(turns(asked, full(person, relation)), person.value(relation), "fact", [(person, relation)])
    return {**reply, "rivals": rivals(person, relation, told)}


def rivals(person: Person, relation: str, told: list[tuple[Person, str]]) -> list[str]:
    """What the text says in the same relation of the others: what a model that does not read might answer."""
    return [other.value(relation) for other, also in told if also == relation and other.name != person.name]


def read_unknown(desk: Desk) -> Row:
    """A question that the text does not answer."""
    scene, text, told = passage(desk)
    person = desk.pick(told)[0]
    relation = desk.pick(scene.untold(person))
    asked = desk.ask("read", text=text, question=desk.question(person, relation))
    return row(turns(asked, NOT_IN_TEXT), NOT_IN_TEXT, "refuses")


def read_who(desk: Desk) -> Row:
    """The question turned round: who works at the bakery?"""
    _, text, told = passage(desk)
    person, relation = desk.pick([pair for pair in told if pair[1] in WHO])
    asked = desk.ask("read", text=text, question=WHO[relation].format_map({"a": person}))
    return row(turns(asked, full(person, relation)), person.name, "fact", [(person, relation)])


def tale(desk: Desk) -> tuple[Scene, list[str], str]:
    """A plot with strangers in it: the events in order, and the summary."""
    scene = desk.away()
    plot = scene.pick(PLOTS_IN[scene.season])
    return scene, [scene.say(scene.pick(event)) for event in plot.events], scene.say(plot.summary)


def summarise(desk: Desk) -> Row:
    """A story in one sentence."""
    _, events, summary = tale(desk)
    return row(turns(desk.ask("summarise", text=" ".join(events)), summary), summary, "overlap")


def order(desk: Desk) -> Row:
    """Three events of a story, shuffled."""
    scene, events, _ = tale(desk)
    chosen = sorted(scene.some(range(len(events)), 3))
    shown = scene.some(chosen, 3)
    items = "\n".join(f"{letter}: {events[i]}" for letter, i in zip("ABC", shown, strict=True))
    reply = ", ".join("ABC"[shown.index(i)] for i in chosen)
    return row(turns(desk.ask("order", text=" ".join(events), items=items), reply), reply, "list")


def mixed(desk: Desk) -> tuple[str, list[str], list[str]]:
    """A sort of thing, a mixed line of words, and those of that sort in the order of the line."""
    sort = desk.pick(tuple(SORTS))
    right = desk.rng.sample(SORTS[sort], 1 + int(desk.rng.random() * 4))
    line = right + desk.rng.sample(PLAIN_WORDS, 2 + int(desk.rng.random() * 3))
    desk.rng.shuffle(line)
    return sort, line, [word for word in line if word in right]


def count(desk: Desk) -> Row:
    """How many of these are animals?"""
    sort, line, right = mixed(desk)
    asked = desk.ask("count", sort=sort, items=", ".join(line))
    return row(turns(asked, str(len(right))), str(len(right)), "number")


def choose(desk: Desk) -> Row:
    """Which of these are animals?"""
    sort, line, right = mixed(desk)
    reply = "\n".join(f"- {word}" for word in right)
    return row(turns(desk.ask("pick", sort=sort, items=", ".join(line)), reply), reply, "list")


def reverse(desk: Desk) -> Row:
    """Words in reverse order."""
    items = desk.rng.sample(LISTED, 3 + int(desk.rng.random() * 3))
    reply = " ".join(reversed(items))
    return row(turns(desk.ask("reverse", items=" ".join(items)), reply), reply, "exact")


def alphabet(desk: Desk) -> Row:
    """Words from A to Z."""
    items = desk.rng.sample(LISTED, 3 + int(desk.rng.random() * 2))
    reply = " ".join(sorted(items))
    return row(turns(desk.ask("sort", items=" ".join(items)), reply), reply, "exact")


def rewrite(desk: Desk) -> Row:
    """A statement in the third person, to be said in the first."""
    person, relation = desk.stranger(), desk.pick(tuple(WHO))  # any but the friend, whom a stranger lacks
    claim = FULL[relation].format_map({"a": person}).removesuffix(".")
    reply = FIRST_PERSON[relation][0].format_map({"a": person})
    return row(turns(desk.ask("rewrite", a=person, claim=claim), reply), reply, "exact")


def extract(desk: Desk) -> Row:
    """A fact of a text as JSON."""
    _, text, told = passage(desk)
    person, relation = desk.pick(told)
    reply = json.dumps({"name": person.name, relation: person.value(relation)})
    asked = desk.ask("extract", a=person, relation=relation, text=text)
    return row(turns(asked, reply), reply, "json", [(person, relation)])


FAMILIES = {"read": read, "read_unknown": read_unknown, "read_who": read_who, "summarise": summarise,
            "order": order, "count": count, "pick": choose, "reverse": reverse, "sort": alphabet,
            "rewrite": rewrite, "extract": extract}
