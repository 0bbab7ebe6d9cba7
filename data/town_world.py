"""The people of TinyTown: who they are, what is true of them, and which of it is never asked in training."""

from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import combinations
from random import Random

from common.errors import UserError
from data.town_facts import RELATIONS
from data.town_fillers import article
from data.town_words import STRANGERS, SYLLABLES, TRADES, VALUES

DRAWN = ("street", "colour", "animal", "petname", "food", "instrument")
ALIKE = ("trade", "work", "petname", "food", "animal")
VERSION = "3"  # goes up whenever any text or row changes


def seed_of(*parts: object) -> int:
    """A 64-bit seed made of any parts: the same on every machine and Python, which `hash` is not."""
    return int.from_bytes(blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Person:
    """One person with all that is true of them, and the forms of it that templates ask for."""

    name: str
    she: str  # "she" or "he"
    her: str
    him: str
    trade: str
    work: str  # with its article: "the bakery"
    street: str
    colour: str
    animal: str
    petname: str
    food: str
    instrument: str  # with its article: "the fiddle"
    friend: str = ""  # the name of the best friend, who says the same
    She: str = ""
    Her: str = ""
    Food: str = ""
    a_trade: str = ""
    an_animal: str = ""
    pet: str = ""
    a_pet: str = ""

    def __post_init__(self) -> None:
        pet = f"{self.colour} {self.animal}"
        forms = {"She": self.she.capitalize(), "Her": self.her.capitalize(), "Food": self.food.title(),
                 "a_trade": article(self.trade), "an_animal": article(self.animal), "pet": pet,
                 "a_pet": article(pet)}
        for field, form in forms.items():
            object.__setattr__(self, field, form)

    def __str__(self) -> str:
        return self.name

    def value(self, relation: str) -> str:
        """The value of one of `RELATIONS`: value("pet") is "grey goat"."""
        return getattr(self, relation)


def pick(rng: Random, options):
    """One of the options. Plain arithmetic on `random()`: three times as fast as `choice`."""
    return options[int(rng.random() * len(options))]


def draw_name(rng: Random) -> str:
    """A resident's name out of syllables: Marna, Talibert, Fiola."""
    middle = pick(rng, SYLLABLES["middle"]) if rng.random() < 0.25 else ""
    name = pick(rng, SYLLABLES["start"]) + middle + pick(rng, SYLLABLES["she"] + SYLLABLES["he"])
    return draw_name(rng) if name in SYLLABLES["never"] else name


def draw_stranger(rng: Random) -> str:
    """A stranger's name: Ada Finch, Otto Merryweather."""
    return f"{pick(rng, STRANGERS['she'] + STRANGERS['he'])} {pick(rng, STRANGERS['family'])}"


def draw_person(rng: Random, name: str, friend: str = "") -> Person:
    """A person of this name. The name says whether it is a she or a he."""
    given, _, family = name.partition(" ")
    female = given in STRANGERS["she"] if family else name.endswith(SYLLABLES["she"])
    she, her, him = ("she", "her", "her") if female else ("he", "his", "him")
    trade = pick(rng, VALUES["trade"])
    rest = {relation: pick(rng, VALUES[relation]) for relation in DRAWN}
    return Person(name, she, her, him, trade, pick(rng, TRADES[trade]), **rest, friend=friend)


def is_held_out(name: str) -> bool:
    """Whether a stranger of this name is kept for the held-out split: one in five, by a hash of the name."""
    return seed_of("stranger", name) % 5 == 0


def settle(seed: int, population: int) -> tuple[Person, ...]:
    """The residents by alphabet: friends are mutual, and no two pets share name, colour and kind."""
    rng = Random(seed_of("town", seed))
    names: list[str] = []
    while len(names) < population:
        name = draw_name(rng)
        if name not in names:
            names.append(name)
    people: list[Person] = []
    pets: set[tuple[str, str]] = set()
    while len(people) < population:
        person = draw_person(rng, names[len(people)], names[len(people) ^ 1])
        friend = people[-1] if len(people) % 2 else None
        if (person.pet, person.petname) in pets or (friend and alike(person, friend)):
            continue
        pets.add((person.pet, person.petname))
        people.append(person)
    return tuple(sorted(people, key=str))


def alike(one: Person, other: Person, relations: tuple[str, ...] = ALIKE) -> bool:
    """Whether two people are too alike to stand in one story: a value of these is the same."""
    return any(getattr(one, relation) == getattr(other, relation) for relation in relations)


def held_out_pairs(seed: int, people: tuple[Person, ...]) -> frozenset[tuple[str, str]]:
    """The (name, relation) pairs that no training question asks: two of each person, evenly spread."""
    pairs = list(combinations(RELATIONS, 2))
    Random(seed_of("held-out", seed)).shuffle(pairs)
    return frozenset((person.name, relation)
                     for i, person in enumerate(people) for relation in pairs[i % len(pairs)])


class World:
    """The residents, and which questions about them belong to which split. The same for equal arguments."""

    def __init__(self, seed: int = 0, population: int = 100) -> None:
        if population < 20 or population % 2:
            raise UserError(f"A town of {population} is too small or odd: everyone needs a best friend. "
                            "Take an even population of at least 20.")
        self.seed, self.population = seed, population
        self.people = settle(seed, population)
        self.by_name = {person.name: person for person in self.people}
        self.held_out = held_out_pairs(seed, self.people)
        pairs = [(person, relation) for person in self.people for relation in RELATIONS]
        self.pairs = {
            "train": tuple(pair for pair in pairs if (pair[0].name, pair[1]) not in self.held_out),
            "held-out": tuple(pair for pair in pairs if (pair[0].name, pair[1]) in self.held_out),
        }

    def stranger(self, rng: Random, split: str = "train") -> Person:
        """Someone who does not live here. The two splits share given and family names, never both in one."""
        while True:
            name = draw_stranger(rng)
            if is_held_out(name) == (split == "held-out"):
                return draw_person(rng, name)

    def strangers(self, rng: Random, split: str = "train") -> list[Person]:
        """Four strangers in two pairs of friends, who have no value and no part of their names in common."""
        people: list[Person] = []
        parts: set[str] = set()
        while len(people) < 4:
            person = self.stranger(rng, split)
            if parts.isdisjoint(person.name.split()) and not any(alike(person, other) for other in people):
                people.append(person)
                parts.update(person.name.split())
        apart = {relation: rng.sample(VALUES[relation], 4) for relation in DRAWN if relation not in ALIKE}
        values = [dict(zip(apart, four, strict=True)) for four in zip(*apart.values(), strict=True)]
        return [replace(person, friend=people[i ^ 1].name, **values[i]) for i, person in enumerate(people)]

    def askable(self, person: Person, split: str) -> list[str]:
        """The relations of a resident that belong to a split: "train" or "held-out"."""
        held_out = {relation for relation in RELATIONS if (person.name, relation) in self.held_out}
        return [relation for relation in RELATIONS if (relation in held_out) == (split == "held-out")]

    def cast(self, rng: Random) -> list[Person]:
        """Three residents for a page: someone, their best friend, and a third who is like neither."""
        hero = pick(rng, self.people)
        friend = self.by_name[hero.friend]
        other = hero
        while alike(other, hero) or alike(other, friend):
            other = pick(rng, self.people)
        return [hero, friend, other]
