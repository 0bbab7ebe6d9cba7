"""Answers from your own documents: cut them, find what belongs to a question, and say where an answer stands.

Came before: project 10 finds passages by words and by vectors. New here: what comes before and after. A text
is cut at the ends of sentences, with an overlap, so that what belongs together is together somewhere
(`blindly` cuts every so many characters, through the middle of the name that you will ask for). The best
passages go into the prompt. And each sentence of the answer is traced back to the passage that says so, or
is marked as said by none: a model may read well and still make things up (`cited`). Beside it stands the
sentence of the passages that answers best by its words alone, which needs no model at all (`extract`).

Seam: none. Lewis et al. 2020, 2005.11401 (RAG); Gao et al. 2023, 2305.14627 (citations); Rashkin et al. 2023,
2112.12870 (attribution). Scores and fusion: project 10.
"""

import re
from dataclasses import dataclass

import numpy as np

from common.errors import demand
from common.exercise import exercise
from phase04_advanced_inference.project10_prompt_caching.retrieval import BM25, fuse

WORD = re.compile(r"\w+|[^\w\s]")
SENTENCE = re.compile(r"\S.*?(?:[.!?]+[\"'”’)\]]*(?=\s)|(?=\n)|\Z)", re.S)
SMALL = frozenset(
    re.findall(
        r"\w+",
        """
a an and are as at be but by did do does for from had has have he her him his how i in is it its me my of on
or she so that the their them they this to was we were what when where which who whom whose why will with you
your
""",
    )
)


def blindly(text, size):
    """The naive way: a cut every `size` characters. (start, end) of each."""
    return [(at, min(at + size, len(text))) for at in range(0, len(text), size)]


def words(text):
    """What counts for finding: lower case, without marks and without the small words."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in SMALL]


def sentences(text):
    """(start, end) of each sentence or line, without the space around it."""
    return [(found.start(), found.start() + len(found[0].rstrip())) for found in SENTENCE.finditer(text)]


def measured(text, most):
    """(start, end, words and marks) of each sentence; one of more than `most` is cut into such as have no
    more."""
    found = []
    for start, end in sentences(text):
        parts = [(start + one.start(), start + one.end()) for one in WORD.finditer(text[start:end])]
        for at in range(0, len(parts), most):
            some = parts[at : at + most]
            found.append((some[0][0], some[-1][1], len(some)))
    return found


@exercise
def chunks(text, size=80, overlap=20):
    """(start, end) of each chunk: whole sentences in their order, at most `size` words and marks of them.

    `measured(text, size)` says where sentences are and how long. A chunk takes as many as fit. The next one
    begins with the last sentences of this one, as many as have at most `overlap` words together, but never
    with so many that the next sentence would not fit; where all of a text is taken there is no next one.
    Each sentence is in a chunk. UserError unless 0 <= overlap < size.
    """
    demand(0 <= overlap < size, f"an overlap of {overlap}: from 0 to less than the size, {size}")
    parts, found, first = measured(text, size), [], 0
    while first < len(parts):
        end, n = first, 0
        while end < len(parts) and n + parts[end][2] <= size:
            n, end = n + parts[end][2], end + 1
        found.append((parts[first][0], parts[end - 1][1]))
        if end == len(parts):
            break
        first, shared = end, 0
        while shared + parts[first - 1][2] <= min(overlap, size - parts[end][2]):
            first -= 1
            shared += parts[first][2]
    return found


# ---- find ----


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: text[start:end] of what is called `source`."""

    source: str
    start: int
    end: int
    text: str


def cut(texts, size=80, overlap=20, most=4000):
    """The Chunks of documents {name: text}. UserError where they are more than `most`."""
    found = [
        Chunk(name, start, end, text[start:end])
        for name, text in texts.items()
        for start, end in chunks(text, size, overlap)
    ]
    demand(len(found) <= most, f"{len(found)} passages: at most {most} are kept; take fewer documents")
    return found


class Shelf:
    """Chunks to search. vectors: (N, C), a unit vector for each; None: by words alone."""

    def __init__(self, chunks, vectors=None):
        demand(chunks, "no documents: there is nothing to search")
        demand(vectors is None or len(vectors) == len(chunks), "a vector for each chunk, or none at all")
        self.chunks, self.vectors = list(chunks), vectors
        self.index = BM25([words(one.text) for one in self.chunks])

    def scores(self, question, vector=None, weight=0.3):
        """(N,): how well each chunk fits. vector: the question's. weight: of the vectors; the rest is the
        words'. Both are brought to one scale first, by project 10's `fuse`."""
        sparse = self.index.scores(words(question))
        if self.vectors is None or vector is None:
            return sparse
        return fuse(sparse, self.vectors @ np.asarray(vector, float), weight)

    def search(self, question, k=4, vector=None, weight=0.3):
        """The numbers of the k best, best first."""
        return np.argsort(-self.scores(question, vector, weight), kind="stable")[:k].tolist()

    def rarity(self, word):
        """How much a word says: its idf here; of a word that no chunk has, that of the rarest."""
        return self.index.idf(word) or float(np.log1p(self.index.N))


# ---- say where it stands ----


def share(of, among, weight):
    """How much of the weight of these words the others have, too: 0 to 1; 0 where there is none."""
    whole = sum(map(weight, set(of)))
    return sum(map(weight, set(of) & set(among))) / whole if whole else 0.0


@exercise
def cited(answer, passages, weight=lambda word: 1.0, least=0.6):
    """[(sentence, number)]: for each sentence of the answer the passage that says so; None where none does.

    That is the passage which has the largest share (`share`) of the weight of the sentence's words
    (`words`), if it has at least `least` of it; of equal ones the first. weight: how much a word says. A
    sentence without any such word ("It is.") goes with none.
    """
    held, found = [words(passage) for passage in passages], []
    for start, end in sentences(answer):
        sentence = answer[start:end]
        shares = [share(words(sentence), one, weight) for one in held]
        best = max(range(len(shares)), key=shares.__getitem__, default=None)
        found.append((sentence, best if best is not None and shares[best] >= least else None))
    return found


def extract(question, passages, weight=lambda word: 1.0):
    """(sentence, number of its passage): the one sentence that holds most of the question's words; of equal
    ones the first. (None, None) where no sentence has any."""
    asked, best, found = words(question), 0.0, (None, None)
    for number, passage in enumerate(passages):
        for start, end in sentences(passage):
            score = share(asked, words(passage[start:end]), weight)
            if score > best:
                best, found = score, (passage[start:end], number)
    return found


def prompt(question, passages):
    """What the model is asked: the passages, numbered, and the question."""
    read = "\n".join(f"[{i}] {' '.join(passage.split())}" for i, passage in enumerate(passages, 1))
    return f"{read}\n\nNow answer from the text: {question}"
