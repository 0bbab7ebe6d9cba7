"""The desk at which rows are made: it draws people, questions and wordings of one split and of no other.

A row is {"messages", "family", "kind", "answer", "checker", "asks"}. `messages` ends with the right reply;
`answer` is the bare value; `checker` names the function of `town_checks` that compares a reply; `asks` lists
the (name, relation) pairs that the row asks about.
"""

from dataclasses import dataclass
from random import Random

from data.town_asks import ASKS, HELD_OUT_ASKS
from data.town_facts import FULL, QUESTIONS, REPHRASED
from data.town_scene import FIXED, Scene
from data.town_words import OTHER_TOWNS
from data.town_world import Person, World, pick

# train: what a model may learn from. held-out: pairs and strangers that training never asks about, in known
# wordings. rephrased: known pairs, in wordings that training never uses.
SPLITS = ("train", "held-out", "rephrased")
Row = dict[str, object]


@dataclass(frozen=True)
class Desk:
    """Draws for one row. What is asked about depends on the split, and so does how."""

    world: World
    rng: Random
    split: str

    @property
    def half(self) -> str:
        """Which pairs and strangers are asked about: "train" or "held-out"."""
        return "held-out" if self.split == "held-out" else "train"

    def pick(self, options):
        """One of the options."""
        return pick(self.rng, options)

    def pair(self, relations: tuple[str, ...] = ()) -> tuple[Person, str]:
        """A resident and a relation that may be asked, if need be one of these relations."""
        while True:
            person, relation = self.pick(self.world.pairs[self.half])
            if not relations or relation in relations:
                return person, relation

    def two_of_one(self) -> tuple[Person, str, str]:
        """A resident and two relations, both of which may be asked."""
        person, relation = self.pair()
        others = [other for other in self.world.askable(person, self.half) if other != relation]
        return person, relation, self.pick(others)

    def ask(self, family: str, **slots: object) -> str:
        """The words of an instruction of this family. `//` in a wording is an empty line."""
        wording = self.pick((HELD_OUT_ASKS if self.split == "rephrased" else ASKS)[family])
        text = wording.replace(" // ", "\n\n").format_map({"town": "Tinytown", **slots})
        return text[0].upper() + text[1:]

    def question(self, person: Person, relation: str) -> str:
        """A question for a relation of a person."""
        asked = (REPHRASED if self.split == "rephrased" else QUESTIONS)[relation]
        return self.pick(asked).format_map({"a": person})

    def stranger(self) -> Person:
        """Somebody who does not live in town."""
        return self.world.stranger(self.rng, self.half)

    def away(self) -> Scene:
        """A scene in another town, with four strangers."""
        strangers = self.world.strangers(self.rng, self.half)
        scene = Scene(self.world, self.rng, strangers, town=self.pick(OTHER_TOWNS))
        scene.fix(*FIXED)
        return scene


def full(person: Person, relation: str) -> str:
    """The full sentence that tells a fact: "Mara works at the bakery."."""
    return FULL[relation].format_map({"a": person})


def turns(*contents: str, system: str = "") -> list[dict[str, str]]:
    """Messages of user and assistant by turns, after a system message if there is one."""
    roles = ("user", "assistant") * len(contents)
    said = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return ([{"role": "system", "content": system}] if system else []) + said


def row(messages: list[dict[str, str]], answer: str, checker: str, asks=()) -> Row:
    """A row but for its family and kind, which `town_tasks` adds."""
    asked = [[person.name, relation] for person, relation in asks]
    return {"messages": messages, "answer": answer, "checker": checker, "asks": asked}
