"""A chronicle of any length with facts at known places: needles to look for, and long-range recall.

The hay is the town's chronicle, day after day. Each needle is one sentence about a visitor of whom nothing
else is said, so that its question has one answer and only the needle gives it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from common.errors import UserError
from data.town_facts import lines
from data.town_fillers import FILLERS
from data.town_registers import HAPPENINGS
from data.town_scene import Scene, ordinal
from data.town_words import MONTHS, SEASONS, VALUES
from data.town_world import World, pick, seed_of

# Sentence, question and answer of a needle. {name} is a visitor, {digits} five digits.
NEEDLES = lines("""
A visitor called {name} hid {odd} at {p}. | Where did {name} hide {odd}? | {p}
A visitor called {name} left {odd} with {keeper} overnight. | With whom did {name} leave {odd}? | {keeper}
A visitor called {name} gave {digits} as the secret number. | What was {name}'s secret number? | {digits}
A visitor called {name} paid for everything with {goods}. | With what did {name} pay? | {goods}
A visitor called {name} asked the way to {p} {number} times. | How often did {name} ask the way? | {number}
A visitor called {name} plays {instrument}, and played all night. | What does {name} play? | {instrument}
""")
DEPTHS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


@dataclass(frozen=True)
class Needle:
    """A fact at a known place: text[start:end] is its sentence, text[answer_start:answer_end] its answer."""

    start: int  # in characters
    end: int
    answer_start: int
    answer_end: int
    depth: float  # the share of the text that stands before it
    question: str
    answer: str


@dataclass(frozen=True)
class Document:
    """A long text, the needles in it, and its length in the tokens that were asked for."""

    text: str
    needles: tuple[Needle, ...]
    n_tokens: int


def count_words(text: str) -> int:
    """Words and marks: a stand-in for a tokenizer that knows the town's words."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def days(world: World, rng: Random) -> Iterator[str]:
    """The entries of a chronicle without end, two days a week, year after year."""
    months = [month for season in SEASONS for month in MONTHS[season]]
    for year in count(1):
        for month in months:
            heading = f"{month} of year {year}\n\n"
            for day in range(1 + int(rng.random() * 3), 29, 3):
                events = (Scene(world, rng).say(event) for event in rng.sample(HAPPENINGS, 2))
                yield f"{heading}The {ordinal(day)} of {month}. {' '.join(events)}"
                heading = ""


def needle(world: World, rng: Random, name: str, template: str) -> tuple[str, str, str]:
    """Sentence, question and answer."""
    slots = {"name": name, "p": pick(rng, VALUES["work"]), "instrument": pick(rng, VALUES["instrument"]),
             "keeper": pick(rng, world.people).name, "digits": str(10_000 + int(rng.random() * 90_000))}
    slots |= {slot: pick(rng, FILLERS[slot]) for slot in ("odd", "goods", "number")}
    sentence, question, answer = template.format_map(slots).split(" | ")
    return sentence, question, answer


def place(text: str, found: tuple[str, str, str]) -> Needle:
    """Where a needle lies in the finished text."""
    sentence, question, answer = found
    start = text.index(sentence)
    answer_start = start + sentence.rindex(answer)
    return Needle(start, start + len(sentence), answer_start, answer_start + len(answer),
                  start / len(text), question, answer)


def document(world: World, n_tokens: int, seed: int = 0, depths: Sequence[float] = DEPTHS,
             length: Callable[[str], int] = count_words) -> Document:
    """A chronicle of at most `n_tokens` tokens, and hardly fewer, with a needle at each depth from 0 to 1.

    `length` counts the tokens of a text. UserError where the needles do not fit.
    """
    if not all(0 <= depth <= 1 for depth in depths):
        raise UserError(f"Depths are shares of the text, from 0 to 1, not {list(depths)}.")
    rng = Random(seed_of("document", world.seed, seed))
    names = distinct_names(world, rng, len(depths))
    first = int(rng.random() * len(NEEDLES))
    found = [needle(world, rng, name, NEEDLES[(first + i) % len(NEEDLES)]) for i, name in enumerate(names)]
    used = sum(length(" " + sentence) for sentence, _, _ in found)
    entries: list[str] = []
    for entry in days(world, rng):
        entries.append(entry)
        used += length("\n\n" + entry)
        if used > n_tokens:
            break
    while length(text := weave(entries, found, depths)) > n_tokens:
        entries.pop()
        if not entries:
            raise UserError(f"{len(depths)} facts do not fit into {n_tokens} tokens: ask for more tokens.")
    return Document(text, tuple(place(text, one) for one in found), length(text))


def distinct_names(world: World, rng: Random, n_names: int) -> list[str]:
    """Names of visitors, each a new one."""
    names: list[str] = []
    while len(names) < n_names:
        name = world.stranger(rng).name
        if name not in names:
            names.append(name)
    return names


def weave(entries: list[str], found: Sequence[tuple[str, str, str]], depths: Sequence[float]) -> str:
    """The entries as one text, each needle at the end of the entry that lies at its depth."""
    woven = list(entries)
    for depth, (sentence, _, _) in zip(depths, found, strict=True):
        woven[min(int(depth * len(entries)), len(entries) - 1)] += " " + sentence
    return "\n\n".join(["The chronicle of Tinytown", *woven])
