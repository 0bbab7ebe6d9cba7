"""Scores a reply without a model: named checkers, a judge of courtesy, and a reward made of both.

Each checker is a pure function of a row and a reply. Words are compared after case, spaces, quotes and the
last punctuation are gone; known courtesies ("Certainly!", "I hope that helps.") are no part of an answer.
"""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from data.town_asks import CLOSINGS, OPENINGS, RUDE

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
REFUSALS = ("i do not know", "i don't know", "the text does not say", "the text doesn't say")
SMALL = frozenset(("a", "an", "and", "at", "but", "by", "for", "from", "had", "has", "he", "her", "him",
                   "his", "in", "is", "it", "of", "on", "she", "so", "that", "the", "then", "they", "to",
                   "was", "were", "with"))
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def normalise(text: str) -> str:
    """Lower case, one space between words, no quotes around it and no punctuation at its end."""
    return " ".join(text.lower().replace("’", "'").split()).strip(" \"'“”.!?,;")


COURTESIES = {normalise(line) for line in OPENINGS + CLOSINGS}
RUDENESS = {normalise(line) for line in RUDE}


def remarks(reply: str) -> list[str]:
    """The sentences of a reply, normalised."""
    return [normalise(sentence) for sentence in SENTENCE.findall(reply) if normalise(sentence)]


def core(reply: str) -> str:
    """What a reply says, without its courtesies."""
    return ". ".join(said for said in remarks(reply) if said not in COURTESIES)


def gold(row: dict) -> str:
    """The right reply of a row: its last message, or the chosen one of a preference."""
    return row["chosen"] if "chosen" in row else row["messages"][-1]["content"]


def exact(row: dict, reply: str) -> bool:
    """The reply is the right one, word by word."""
    return core(reply) == core(gold(row))


def fact(row: dict, reply: str) -> bool:
    """The reply is the right sentence, or an end of it that holds the value: "the bakery"."""
    said = re.sub(r"^(?:she|he|her|his|it is|it's|nothing beats) ", "", core(reply))
    value = re.sub(r"^(?:the|an?) ", "", normalise(row["answer"]))
    right = core(gold(row))
    whole = bool(said) and (right == said or right.endswith(f" {said}"))
    return whole and re.search(rf"\b{re.escape(value)}\b", said) is not None


def yes_no(row: dict, reply: str) -> bool:
    """The one yes or no of the reply is the right one."""
    return set(re.findall(r"\b(?:yes|no)\b", reply.lower())) == {row["answer"]}


def listing(row: dict, reply: str) -> bool:
    """The entries are the right ones in the right order, on lines of their own or parted by commas."""
    def entries(text: str) -> list[str]:
        return [normalise(entry.lstrip("-*• \t")) for entry in re.split(r"[\n,]", text) if normalise(entry)]
    return entries(reply) == entries(row["answer"])


def as_json(row: dict, reply: str) -> bool:
    """The reply is JSON and means the same."""
    try:
        return json.loads(reply) == json.loads(row["answer"])
    except ValueError:
        return False


def number(row: dict, reply: str) -> bool:
    """The one number in the reply, in digits or as a word, is the right one."""
    found = re.findall(r"\d+|\b(?:" + "|".join(NUMBER_WORDS) + r")\b", reply.lower())
    said = {NUMBER_WORDS.index(word) if word in NUMBER_WORDS else int(word) for word in found}
    return said == {int(row["answer"])}


def refuses(row: dict, reply: str) -> bool:
    """The reply says that it does not know and makes nothing up: the right reply, or the bare refusal."""
    return core(reply) == core(gold(row)) or core(reply) in REFUSALS


def overlap(row: dict, reply: str) -> bool:
    """One sentence with 90 % of the right one's words, counted both ways: only small words differ, and the
    names come in the same order."""
    said, right = (re.findall(r"\w+", core(text)) for text in (reply, gold(row)))
    shared = sum(min(said.count(word), right.count(word)) for word in set(said))
    enough = shared >= 0.9 * max(len(said), len(right)) and set(said) ^ set(right) <= SMALL
    names = {name.lower() for name in re.findall(r"\b[A-Z]\w+", gold(row))}
    order = [list(dict.fromkeys(word for word in words if word in names)) for words in (said, right)]
    return len(remarks(reply)) == 1 and enough and order[0] == order[1]


CHECKERS: dict[str, Callable[[dict, str], bool]] = {
    "exact": exact, "fact": fact, "yes-no": yes_no, "list": listing, "json": as_json, "number": number,
    "refuses": refuses, "overlap": overlap,
}


def check(row: dict, reply: str) -> bool:
    """Whether a reply is right, by the row's own checker."""
    return CHECKERS[row["checker"]](row, reply)


class Verdict(NamedTuple):
    """What the judge sees in a reply."""

    correct: bool
    polite: bool  # has a courtesy and nothing rude
    rude: bool
    wordy: bool  # more than twice as long as the right reply, and twenty words more


def judge(row: dict, reply: str) -> Verdict:
    """Correctness and manners of a reply."""
    said = remarks(reply)
    rude = any(remark in RUDENESS for remark in said)
    kind = any(remark in COURTESIES for remark in said)
    wordy = len(reply.split()) > 2 * len(gold(row).split()) + 20
    civil = "\n".join(sentence for sentence in SENTENCE.findall(reply) if normalise(sentence) not in RUDENESS)
    return Verdict(check(row, civil.strip()), kind and not rude, rude, wordy)


def reward(row: dict, reply: str) -> float:
    """1 for a right answer, 0.5 for manners, less 1 for rudeness and 0.5 for wordiness: from -1.5 to 1.5."""
    verdict = judge(row, reply)
    return 1.0 * verdict.correct + 0.5 * verdict.polite - 1.0 * verdict.rude - 0.5 * verdict.wordy
