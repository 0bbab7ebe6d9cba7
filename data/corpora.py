"""The corpora: where each comes from, its licence, its checksum, and one way to load any of them."""

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data import python_manual


@dataclass(frozen=True)
class Part:
    """One file of a corpus: its name in $THIRTY_DATA and in the cache, where it is published, what it must be."""

    file: str
    address: str
    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Corpus:
    """One text: files to look for, or a function that builds it on the spot."""

    name: str
    about: str
    licence: str
    parts: tuple[Part, ...] = ()
    build: Callable[[], str] | None = None


CORPORA = (
    Corpus(
        "shakespeare", "Tiny Shakespeare, 1.1 MB of plays", "public domain text",
        (Part("shakespeare.txt",
              "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
              "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", 1_115_394),),
    ),
    Corpus("python-manual", "the manual and docstrings that every Python carries", "PSF License",
           build=python_manual.text),
)


def load(name: str, *, fallback: str | None = "python-manual", say: Callable[[str], None] = print) -> str:
    """The text of a corpus: from $THIRTY_DATA, else the cache, else built on the spot, else the fallback."""
    corpus = find(name)
    if corpus.build:
        return corpus.build()
    if files := list(present(corpus)):
        return "".join(file.read_text(encoding="utf-8") for file in files)
    if fallback is None:
        raise UserError(f"{name} is not here: put {corpus.parts[0].file} into $THIRTY_DATA")
    say(f"{name} is not here: using {fallback} instead, and numbers expected for {name} do not apply")
    return load(fallback, fallback=None, say=say)


def find(name: str) -> Corpus:
    """The row of the table; UserError with the nearest name otherwise."""
    table = {corpus.name: corpus for corpus in CORPORA}
    if name not in table:
        near = difflib.get_close_matches(name, table, 1, 0)[0]
        raise UserError(f"no corpus is called {name!r}; did you mean {near}? There are: {', '.join(table)}")
    return table[name]


def present(corpus: Corpus) -> Iterator[Path]:
    """Those files of a corpus that lie in $THIRTY_DATA."""
    if folder := os.environ.get("THIRTY_DATA"):
        yield from (file for part in corpus.parts if (file := Path(folder) / part.file).is_file())
