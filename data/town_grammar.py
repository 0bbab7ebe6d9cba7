"""Reads TinyTown back: is a sentence one that the town could say, and is what it tells true?

Every template becomes a regular expression whose slots take the words of the town. What the slots caught is
compared with the world. So a text can be scored without a model: `grammar_score` is the share of sentences
that are well formed, `truth_score` the share of told facts that are true. A person only hinted at ("she",
"I") is the one whom the text named last in that role.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from data import town_registers as registers
from data.town_facts import COMBINED, FIRST_PERSON, QUESTIONS, SHORT, STATEMENTS, slots_of
from data.town_fillers import FILLERS, PARTS, SKY, article
from data.town_scene import PLOTS, capital
from data.town_words import MONTHS, OTHER_TOWNS, VALUES
from data.town_world import World

NO_NAME = r"(?!(?:She|He|Her|His|It|The|This|They|There|You|My|In|At|On|And|But|Then)\b)"
NAME = NO_NAME + r"[A-Z][a-z]+(?: [A-Z][a-z]+)?"
PRONOUNS = ("she", "her", "him", "She", "Her")
SENTENCE_END = re.compile(r"[.!?]”?(?=\s)|\n")


def any_of(values) -> str:
    """A pattern for any of these words, in any case, longest first."""
    return "(?i:" + "|".join(re.escape(value) for value in sorted(set(values), key=len, reverse=True)) + ")"


def patterns() -> dict[str, str]:
    """The pattern of each slot: for `{a.work}` it is listed as "work"."""
    pets = [f"{colour} {animal}" for colour in VALUES["colour"] for animal in VALUES["animal"]]
    own = {"": NAME, "friend": NAME, "she": "she|he", "her": "her|his", "him": "her|him", "She": "She|He",
           "Her": "Her|His", "pet": any_of(pets), "a_pet": any_of(map(article, pets))}
    own |= {relation: any_of(values) for relation, values in VALUES.items()}
    own["a_trade"], own["an_animal"] = (any_of(map(article, VALUES[name])) for name in ("trade", "animal"))
    own["Food"] = own["food"]
    own["p"] = own["q"] = own["work"]
    months = "|".join(month for months in MONTHS.values() for month in months)
    own["date"] = rf"The \d\d?(?:st|nd|rd|th) of (?:{months})"
    fillers = {slot: any_of(values) for slot, values in FILLERS.items()}
    # What is put together of two words, word by word: 2,310 odd things in 40 rules would take seconds.
    fillers["odd"] = any_of(map(article, PARTS["odd_kind"])) + " " + any_of(PARTS["odd_thing"])
    fillers["goods"] = f"(?:{any_of(PARTS['goods_kind'])} )?" + any_of(PARTS["goods_thing"])
    return {**own, **fillers, "town": any_of(("Tinytown", *OTHER_TOWNS))}


@dataclass(frozen=True)
class Rule:
    """One template as a pattern, with the slot that each group of the pattern catches."""

    template: str
    role: str  # "fact" where {a} is whoever is spoken of; "page" where the letters are the page's cast
    slots: tuple[str, ...]
    pattern: re.Pattern[str]


def rule(template: str, role: str, slot_patterns: dict[str, str]) -> Rule:
    """The rule of a template, its first letter a capital as it is in the text."""
    slots = tuple(slots_of(template))
    literals = re.split(r"\{[^}]*\}", capital(template))
    parts = [re.escape(literals[0])]
    for slot, literal in zip(slots, literals[1:], strict=True):
        letter, _, name = slot.partition(".")
        pattern = slot_patterns[name if name or letter in "abcd" else letter]
        parts.append(f"({pattern}){re.escape(literal)}")
    return Rule(template, role, slots, re.compile("".join(parts) + r"(?!\w)"))


def page_templates() -> Iterator[str]:
    """Every template in which letters are the page's cast."""
    for plot in PLOTS:
        yield from (*plot.titles, plot.summary, *(line for event in plot.events for line in event))
    yield from (*registers.HAPPENINGS, *registers.MY_HAPPENINGS, *registers.LETTER_OPENINGS)
    yield from (*registers.LETTER_CLOSINGS, *registers.ABOUT_ME)
    for group in (registers.NOTICES, registers.FRAMES, FIRST_PERSON):
        yield from (line for block in group.values() for line in block)
    for line in (*registers.GREETINGS, *registers.TALK, *registers.FAREWELLS):
        yield from line.split(" | ")
    yield from (f"{sky}." for skies in SKY.values() for sky in skies)
    yield "{date}."


def fact_templates() -> Iterator[str]:
    """Every template in which {a} is whoever is spoken of just here."""
    yield from STATEMENTS + COMBINED
    for line in registers.LISTS:
        yield from (part for part in line.split(" | "))
    for relation, asked in QUESTIONS.items():
        short = capital(SHORT[relation])
        for question in asked:
            yield f"{question} {short}."
            spoken = registers.SPOKEN.replace("{a}", "{c}")
            yield spoken.replace("{asked}", question).replace("{short}", short)


@cache
def rules() -> tuple[Rule, ...]:
    """All rules. They are the same for every town; making them takes half a second."""
    known = patterns()
    made = [rule(template, "page", known) for template in dict.fromkeys(page_templates())]
    return (*made, *(rule(template, "fact", known) for template in dict.fromkeys(fact_templates())))


class Told(NamedTuple):
    """A fact that a text tells: of whom, which slot of the template, and what it says."""

    name: str
    slot: str
    said: str


@dataclass
class Reading:
    """What was understood of a text."""

    well_formed: int = 0
    strange: list[str] = field(default_factory=list)  # the sentences that no template explains
    told: list[Told] = field(default_factory=list)
    true: int = 0
    false: list[Told] = field(default_factory=list)

    @property
    def grammar(self) -> float:
        """The share of sentences that are well formed; 0.0 for an empty text."""
        return self.well_formed / max(1, self.well_formed + len(self.strange))

    @property
    def truth(self) -> float:
        """The share of told facts about residents that are true; 0.0 where nothing is told."""
        return self.true / max(1, self.true + len(self.false))


class Grammar:
    """Reads texts about one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self, text: str) -> Reading:
        """Read a text from its beginning. A last sentence without an end is left out."""
        reading, cast, at = Reading(), {}, 0
        text = text.rstrip() + "\n"
        while at < len(text):
            if text[at].isspace():
                at += 1
            elif found := self.longest(text, at):
                used, match = found
                if self.judge(used, match.groups(), cast, reading):
                    reading.well_formed += 1
                else:
                    reading.strange.append(match.group())
                at = match.end()
            else:
                end = SENTENCE_END.search(text, at)
                stop = end.end() if end else len(text)
                if stop < len(text) or text[at:stop].rstrip()[-1] in ".!?”":
                    reading.strange.append(text[at:stop].strip())
                at = stop
        return reading

    def longest(self, text: str, at: int) -> tuple[Rule, re.Match[str]] | None:
        """The rule that explains most of the text at a place."""
        matches = [(used, match) for used in rules() if (match := used.pattern.match(text, at))]
        return max(matches, key=lambda found: found[1].end(), default=None)

    def judge(self, used: Rule, caught: tuple[str, ...], cast: dict[tuple[str, str], str],
              reading: Reading) -> bool:
        """Note who is named and compare every fact with the world. False where a pronoun does not agree."""
        agrees = True
        for slot, said in zip(used.slots, caught, strict=True):
            if slot in ("a", "b", "c", "d"):
                cast[used.role, slot] = said
        for slot, said in zip(used.slots, caught, strict=True):
            letter, _, name = slot.partition(".")
            person = self.world.by_name.get(cast.get((used.role, letter), ""))
            if person is None or not name:
                continue
            right = getattr(person, name).lower() == said.lower()
            if name in PRONOUNS:
                agrees = agrees and right
                continue
            reading.told.append(Told(person.name, name, said))
            reading.true += right
            if not right:
                reading.false.append(reading.told[-1])
        return agrees
