"""A scene: the cast and the slots of one page, and how facts about the cast are told in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from data.town_facts import COMBINED, RELATIONS, STATEMENTS, lines, relations_of, slots_of
from data.town_fillers import FILLERS
from data.town_gatherings import GATHERINGS
from data.town_mishaps import MISHAPS
from data.town_registers import FRAMES
from data.town_words import MONTHS, SEASONS, VALUES
from data.town_world import Person, World, pick


@dataclass(frozen=True)
class Plot:
    """A story to be told: titles, the seasons it happens in, a summary, and the phrasings of each event."""

    titles: tuple[str, ...]
    seasons: frozenset[str]
    summary: str
    events: tuple[tuple[str, ...], ...]


def parse_plots(block: str) -> tuple[Plot, ...]:
    """The plots of a block of text.

    A plot starts with `==` and its titles; then `in:` the seasons it can happen in, `sum:` its summary in
    one sentence; then its events in order, parted by empty lines, each line one phrasing. {a} is the hero,
    {b} the hero's best friend, {c} someone else in town, {p} and {q} two places; other words in braces are
    drawn from `town_fillers`.
    """
    plots = []
    for body in re.split(r"^== ", block, flags=re.MULTILINE)[1:]:
        head, *events = body.strip().split("\n\n")
        titles, seasons, summary = head.split("\n")
        plots.append(Plot(tuple(titles.split(" | ")), frozenset(seasons.removeprefix("in: ").split()),
                          summary.removeprefix("sum: "), tuple(lines(event) for event in events)))
    return tuple(plots)


PLOTS = parse_plots(MISHAPS + GATHERINGS)
PLOTS_IN = {season: tuple(plot for plot in PLOTS if season in plot.seasons) for season in SEASONS}


def telling(statements: Sequence[str], by_name: bool) -> dict[str, tuple[str, ...]]:
    """The statements that tell each relation, by name or by pronoun (which needs the person to be clear)."""
    fitting = [statement for statement in statements if ("a" in slots_of(statement)) == by_name]
    return {relation: tuple(statement for statement in fitting if relation in relations_of(statement))
            for relation in RELATIONS}


# By whether the person is named: statements of one thing, and of several.
ONE = {named: telling(STATEMENTS, named) for named in (True, False)}
SEVERAL = {named: telling(COMBINED, named) for named in (True, False)}
TELLS = {statement: relations_of(statement) for statement in STATEMENTS + COMBINED}
# Who of the cast an event names ({a.friend} is {b}), and what it tells of them.
EVENTS = tuple(line for plot in PLOTS for event in plot.events for line in event)
CAST_OF = {line: tuple(letter for letter, name in (("a", "b.friend"), ("b", "a.friend"), ("c", ""))
                       if {letter, name} & set(slots_of(line))) for line in EVENTS}
TOLD_BY = {line: tuple((letter, relation) for letter in "abc"
                       for relation in sorted(relations_of(line, letter))) for line in EVENTS}


# What a story means by these words it means from beginning to end.
FIXED = ("odd", "goods", "day", "hobby", "dream")


def capital(text: str) -> str:
    """The text with its first letter made a capital."""
    return text[0].upper() + text[1:]


def ordinal(day: int) -> str:
    """A day of a month: "1st", "22nd", "14th"."""
    return str(day) + {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(day, "th")


class Scene(dict):
    """The slots of one page. The cast goes by letters; a slot that is not there is drawn from `FILLERS`."""

    def __init__(self, world: World, rng: Random, cast: Sequence[Person] = (), **fixed: str) -> None:
        super().__init__(zip("abcd", cast or world.cast(rng), strict=False), **fixed)
        self.world, self.rng = world, rng
        self.season = pick(rng, SEASONS)
        self["p"], self["q"] = self.places()
        self.told: set[tuple[str, str]] = set()

    def __missing__(self, slot: str) -> str:
        return pick(self.rng, FILLERS[slot])

    def places(self) -> list[str]:
        """Two places where nobody of the cast works."""
        taken = {person.work for person in self.values() if isinstance(person, Person)}
        places: list[str] = []
        while len(places) < 2:
            place = self.pick(VALUES["work"])
            if place not in taken and place not in places:
                places.append(place)
        return places

    def pick(self, options):
        """One of the options."""
        return pick(self.rng, options)

    def some(self, options, count: int) -> list:
        """That many of the options, in any order."""
        return self.rng.sample(options, count)

    def coin(self, chance: float) -> bool:
        """True with this chance."""
        return self.rng.random() < chance

    def recast(self) -> "Scene":
        """The same page with other people in it."""
        return Scene(self.world, self.rng)

    def say(self, template: str) -> str:
        """The template with its slots filled, beginning with a capital."""
        return capital(template.format_map(self))

    def narrate(self, event: str) -> str:
        """An event of a story. What it tells of the cast is noted."""
        self.told.update((self[letter].name, relation) for letter, relation in TOLD_BY[event])
        return self.say(event)

    def frame(self, name: str) -> str:
        """A title, or another fixed part of a page."""
        return self.say(self.pick(FRAMES[name]))

    def fix(self, *slots: str) -> None:
        """Draw these slots once, so that they mean the same thing all page long."""
        self.update((slot, self[slot]) for slot in slots)

    def dates(self, count: int) -> list[str]:
        """Some days of one month of the season, in order: "The 3rd of May"."""
        month = self.pick(MONTHS[self.season])
        return [f"The {ordinal(day)} of {month}" for day in sorted(self.some(range(1, 29), count))]

    def tell(self, person: Person, relation: str, named: bool = True) -> str:
        """One statement about a person. What it tells is noted, so that no page says the same thing twice."""
        template = self.pick(SEVERAL[named][relation]) if self.coin(0.75) else ""
        if not template or any((person.name, other) in self.told for other in TELLS[template]):
            template = self.pick(ONE[named][relation])
        self.told.update((person.name, other) for other in TELLS[template])
        return capital(template.format_map({"a": person}))

    def untold(self, person: Person) -> list[str]:
        """The relations of a person that this page has not told yet."""
        return [relation for relation in RELATIONS if (person.name, relation) not in self.told]

    def portrait(self, person: Person, count: int) -> str:
        """Some statements about one person; a pronoun stands only where it can mean nobody else."""
        sentences: list[str] = []
        clear = False  # whether the person is the one last named
        for _ in range(count):
            relation = self.pick(self.untold(person) or RELATIONS)
            sentences.append(self.tell(person, relation, named=not clear or self.coin(0.4)))
            clear = person.friend not in sentences[-1]
        return " ".join(sentences)
