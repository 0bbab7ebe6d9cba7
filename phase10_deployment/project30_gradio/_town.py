"""TinyTown as documents: a chronicle to try, and a set of questions with one right answer each, to be scored.

Two kinds of question. *residents*: the model was trained on all that is told about them, so it may know the
answer by heart. *visitors*: a chronicle tells one fact of each, nobody else does, so that without retrieval
there is nothing to know.
"""

import re
from dataclasses import dataclass
from random import Random

from data.tinytown import TinyTown
from data.town_checks import normalise
from data.town_facts import QUESTIONS, RELATIONS, STATEMENTS, relations_of, slots_of

TELLING = {r: [s for s in STATEMENTS if relations_of(s) == {r} and "a" in slots_of(s)] for r in RELATIONS}


@dataclass(frozen=True)
class Asked:
    """A question. kind: residents or visitors; source: the document that says so; evidence: the sentence."""

    kind: str
    question: str
    answer: str
    source: str
    evidence: str


def sample(seed=7):
    """(text, a question that it answers): a chronicle of some pages."""
    document = TinyTown().document(1500, seed=seed)
    return document.text, document.needles[3].question


def questions(each=40, seed=0, length=700):
    """({name: text} of documents, Asked of both kinds): `each` of a kind, the same ones for a seed."""
    town, rng, texts, found = TinyTown(), Random(f"documents {seed}"), {}, []
    for number in range(-(-each // 7)):
        document = town.document(length, seed=1000 * (seed + 1) + number)
        name = f"Chronicle {number + 1}"
        texts[name] = document.text
        found += [Asked("visitors", one.question, one.answer, name, document.text[one.start : one.end])
                  for one in document.needles]  # fmt: skip
    found = list({one.question: one for one in found}.values())[:each]
    pairs = rng.sample(list(town.pairs["held-out"]), min(each, len(town.pairs["held-out"])))
    told = {(person.name, relation): rng.choice(TELLING[relation]).format_map({"a": person})
            for person in town.people for relation in RELATIONS}  # fmt: skip
    for at in range(0, len(town.people), 10):
        people = town.people[at : at + 10]
        lines = [told[person.name, relation] for person in people for relation in RELATIONS]
        rng.shuffle(lines)
        texts[f"Register {at // 10 + 1}"] = "\n".join(lines)
    for person, relation in pairs:
        place = next(i for i, one in enumerate(town.people) if one.name == person.name) // 10
        question = rng.choice(QUESTIONS[relation]).format_map({"a": person})
        found.append(Asked("residents", question, person.value(relation), f"Register {place + 1}",
                           told[person.name, relation]))  # fmt: skip
    return texts, found


def right(asked, reply):
    """Exact match: does the first sentence of the reply hold the answer, word for word?"""
    first = re.split(r"[.!?](?=\s|$)", (reply or "").strip())[0]
    answer = [word for word in words_of(asked.answer) if word not in ("the", "a", "an")]
    return f" {' '.join(answer)} " in f" {' '.join(words_of(first))} "


def words_of(text):
    return re.findall(r"\w+", normalise(text))


def holds(chunk, asked):
    """Is the evidence in this chunk?"""
    return chunk.source == asked.source and asked.evidence in chunk.text
