"""TinyTown: a small town that is made up, whose facts never change, told in as many pages as one asks for.

    town = TinyTown()
    print(town.page(0))                          # a story, a letter, a page of questions ...
    row = next(town.instructions("held-out"))    # {"messages", "family", "kind", "answer", "checker", "asks"}
    check(row, "Mara works at the bakery.")      # True or False, without a model

Every fact is told in the pages; only the pairs of the training split are ever asked about there. A model that
answers the held-out pairs has learned to answer, not the answers (Allen-Zhu and Li 2023, "Physics of Language
Models: Part 3.1", arXiv:2309.14316). All of it is a pure function of the arguments and of a number, the same
on every machine and Python.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count
from random import Random

from common.errors import UserError
from data import town_tasks
from data.town_checks import check, judge, reward
from data.town_document import DEPTHS, Document, count_words, document
from data.town_grammar import Grammar, Reading
from data.town_pages import ASKING, KINDS
from data.town_scene import Scene
from data.town_world import VERSION, Person, World, seed_of

__all__ = ["VERSION", "Document", "Person", "Reading", "TinyTown", "check", "judge", "reward"]


class TinyTown(World):
    """One town of `population` people, and all that is told, asked and answered about it.

    `asking` is the share of the text that is plain questions with their answers. Without them a model stores
    the facts and cannot answer.
    """

    def __init__(self, seed: int = 0, population: int = 100, asking: float = 0.2) -> None:
        super().__init__(seed, population)
        if not 0 <= asking <= 1:
            raise UserError(f"asking is a share of the text, from 0 to 1, not {asking}.")
        shares = {name: (share * (1 - asking), length) for name, (_, share, length) in KINDS.items()}
        shares |= {name: (share * asking, length) for name, (_, share, length) in ASKING.items()}
        bounds = list(accumulate(share / length for share, length in shares.values()))
        self.bounds = [bound / bounds[-1] for bound in bounds]
        self.makers = [make for make, _, _ in (KINDS | ASKING).values()]
        self.grammar = Grammar(self)

    def page(self, number: int, seed: int = 0) -> str:
        """Page `number` of the stream `seed`."""
        rng = Random(seed_of("page", self.seed, seed, number))
        draw = rng.random()
        make = next(make for make, bound in zip(self.makers, self.bounds, strict=True) if draw < bound)
        return make(Scene(self, rng))

    def pages(self, seed: int = 0, start: int = 0) -> Iterator[str]:
        """The pages of a stream from number `start`, without end."""
        return (self.page(number, seed) for number in count(start))

    def text(self, n_chars: int, seed: int = 0, start: int = 0) -> str:
        """Whole pages, an empty line between them, until there are at least `n_chars` characters."""
        stream, pages, length = self.pages(seed, start), [], 0
        while length < n_chars:
            pages.append(next(stream))
            length += len(pages[-1]) + 2
        return "\n\n".join(pages)

    def questions(self, split: str = "held-out", kind: str = "knowledge", form: str = "plain",
                  seed: int = 0) -> Iterator[dict]:
        """Questions for a base model: rows with "prompt" and "completion" besides the rest.

        Knowledge: every pair of the split once. Reading: strangers, without end, with their "rivals". The
        form is "plain" (a question, answered as the pages do) or "cloze" (a sentence to be finished).
        """
        makers = {"knowledge": town_tasks.questions, "reading": town_tasks.readings}
        if kind not in makers:
            raise UserError(f"TinyTown's questions are of the kinds knowledge and reading, not {kind!r}.")
        return makers[kind](self, split, form, seed)

    def instructions(self, split: str = "train", seed: int = 0, *, kind: str | None = None,
                     families: Sequence[str] = (), start: int = 0) -> Iterator[dict]:
        """Instruction rows without end; the families take turns. Row i is a pure function of its number."""
        chosen = town_tasks.choose_families(kind, families)
        return (town_tasks.instruction(self, split, seed, number, chosen) for number in count(start))

    def preferences(self, split: str = "train", seed: int = 0, *, start: int = 0) -> Iterator[dict]:
        """Preference rows without end: {"messages", "chosen", "rejected", "flaw"} and the rest of a row."""
        return (town_tasks.preference(self, split, seed, number) for number in count(start))

    def document(self, n_tokens: int, seed: int = 0, *, depths: Sequence[float] = DEPTHS,
                 length: Callable[[str], int] = count_words) -> Document:
        """A long chronicle with facts at known depths and a question for each; `length` counts tokens."""
        return document(self, n_tokens, seed, depths, length)

    def guessing(self, split: str = "held-out") -> float:
        """The score of a model that knows each relation's most common value and nothing else."""
        pairs = self.pairs["held-out" if split == "held-out" else "train"]
        values: dict[str, list[str]] = {}
        for person, relation in pairs:
            values.setdefault(relation, []).append(person.value(relation))
        return sum(max(map(said.count, said)) for said in values.values()) / len(pairs)

    def grammar_score(self, text: str) -> float:
        """The share of sentences that the town could say, from 0 to 1."""
        return self.grammar.read(text).grammar

    def truth_score(self, text: str) -> float:
        """The share of facts told about residents that are true, from 0 to 1; 0 where none is told."""
        return self.grammar.read(text).truth
