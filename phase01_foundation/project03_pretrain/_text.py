"""From corpora to token files: which documents there are, which of them are held out, and their ids on disk.

A token file is written once. Its name in the cache is the hash of what was read and of the tokenizer, so that
a new text or a new tokenizer gives a new file and never the ids of an old one.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import tokenizer as tokenizers
from common.cli.paths import cache, models
from common.errors import UserError
from data import corpora, loader
from data.readers import read_folder
from data.tinytown import VERSION, TinyTown
from phase01_foundation.project02_tokenizer import fast_bpe

from .probe import end_id

TOWN = "tinytown"
HELD_OUT = 20  # one document in so many is never trained on
PIECE = 4000  # characters of a document that is cut from a running text
SAMPLE = 1_000_000  # characters that are enough for a tokenizer of one's own
LAYOUT = 1  # raise it when the same text would give other token files


class Text(NamedTuple):
    """All that a run reads."""

    tokenizer: object
    train: loader.TokenFile
    valid: loader.TokenFile
    corpus: str


def names(corpus: str) -> list[str]:
    """The corpora, files and folders in "tinytown,python-manual"."""
    found = [name.strip() for name in corpus.split(",") if name.strip()]
    if not found:
        raise UserError("--corpus names no corpus: for example --corpus tinytown,python-manual")
    return found


def resolve(corpus: str, say) -> str:
    """`corpus` with each name that cannot be had here replaced by what is read instead."""
    there = [
        name if name == TOWN or Path(name).exists() else corpora.resolve(name, say=say)
        for name in names(corpus)
    ]
    return ",".join(dict.fromkeys(there))


def in_pieces(texts: Iterable[str], size: int = PIECE) -> Iterator[str]:
    """A running text as documents of one to two `size` characters, cut at the end of a line where there is
    one."""
    held = ""
    for text in texts:
        held, start = held + text, 0
        while len(held) - start > 2 * size:
            line = held.find("\n", start + size, start + 2 * size)
            end = line + 1 if line >= 0 else start + size
            yield held[start:end]
            start = end
        held = held[start:]
    if held.strip():
        yield held


def at_most(texts: Iterable[str], characters: int) -> Iterator[str]:
    """Whole texts until there are so many characters; 0: all."""
    read = 0
    for text in texts:
        if characters and read >= characters:
            return
        yield text
        read += len(text)


def is_held_out(document: str) -> bool:
    """By a hash of the text, so that a document that occurs twice is on one side both times."""
    return zlib.crc32(document.encode()) % HELD_OUT == 0


def documents(corpus: str, characters: int, say=print) -> Iterator[tuple[str, bool]]:
    """(document, is it held out?), corpus by corpus, at most so many characters of each.

    A corpus that comes with parts for training and for validation keeps them; the others are split by hash.
    """
    for name in names(corpus):
        if name == TOWN:
            if not characters:
                raise UserError("TinyTown never ends: say how much of it with --characters")
            found = TinyTown().pages()
        elif Path(name).exists():
            files = read_folder(Path(name), say=say)
            found = (piece for document in files for piece in in_pieces([document.text]))
        elif {"train", "valid"} <= set(corpora.paths(name, say=say)):
            for part in ("train", "valid"):
                stream = in_pieces(corpora.stream(f"{name}/{part}", say=say))
                yield from ((text, part == "valid") for text in at_most(stream, characters))
            continue
        else:
            found = in_pieces(corpora.stream(name, say=say))
        yield from ((text, is_held_out(text)) for text in at_most(found, characters))


def stamp(name: str, say) -> list:
    """What changes when the text of a corpus does."""
    if name == TOWN:
        return [name, VERSION]
    place = Path(name)
    files = (
        [file for found in corpora.paths(name, say=say).values() for file in found]
        if not place.exists()
        else sorted(place.rglob("*"))
        if place.is_dir()
        else [place]
    )
    stats = [(file.as_posix(), file.stat()) for file in files if file.is_file()]
    return [name, *((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)]


def token_paths(corpus: str, characters: int, tokenizer, say=print) -> list[Path]:
    """Where the token files of this text and tokenizer are, or would be: of training, of validation."""
    what = [LAYOUT, tokenizer.sha256, characters, *(stamp(name, say) for name in names(corpus))]
    stem = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return [cache() / "tokens" / f"{stem}-{part}.bin" for part in ("train", "valid")]


def write_tokens(corpus: str, characters: int, tokenizer, say=print) -> None:
    """Encode the corpora into the cache, unless that has been done. UserError where a part would be empty."""
    train, valid = token_paths(corpus, characters, tokenizer, say)
    if train.exists() and valid.exists():
        return
    say(f"encoding {corpus} with {tokenizer.vocab_size:,} ids …")
    end, held_out = end_id(tokenizer), []

    def to_train_on():
        for text, held in documents(corpus, characters, say):
            ids = np.array([*tokenizer.encode(text), end], dtype=np.uint32)
            if held:
                held_out.append(ids)  # a twentieth of the text: it may wait in memory
            else:
                yield ids

    about = {"vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.sha256}
    loader.write(train, to_train_on(), **about)
    if not held_out:
        train.unlink()
        raise UserError(
            f"{corpus} is too short: one document in {HELD_OUT} is held out for validation, and "
            f"of this text that is none; give more of it, {HELD_OUT * PIECE:,} characters"
        )
    loader.write(valid, held_out, **about)


def read_tokens(corpus: str, characters: int, tokenizer, say=print) -> list[loader.TokenFile]:
    """The token files that `write_tokens` wrote; UserError where one is of another tokenizer."""
    return [
        loader.read(path, tokenizer=tokenizer.sha256)
        for path in token_paths(corpus, characters, tokenizer, say)
    ]


def find_tokenizer(named: str, own: Path, corpus: str, characters: int, vocab_size: int, say=print) -> Path:
    """The folder of the tokenizer to use; where there is none yet, a small one is learned in `own`.

    named: a folder, or "" for the course's own, which project 2 saves.
    """
    if named:
        return Path(named)
    for folder in (own, models() / "tokenizer"):
        if (folder / "tokenizer.json").is_file():
            return folder
    say(
        f"no tokenizer in {models() / 'tokenizer'} yet (./thirty run 2 makes it), so a small one of "
        f"{vocab_size:,} ids is learned from this text"
    )
    enough = min(characters, SAMPLE) if characters else SAMPLE
    learn = at_most((text for text, held in documents(corpus, enough, say) if not held), 2 * SAMPLE)
    learn_tokenizer(learn, vocab_size, own)
    return own


def learn_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Project 2's tokenizer, of so many ids, learned from these texts and saved in a folder."""
    fast_bpe.train(texts, vocab_size, tokenizers.SPECIAL).save(folder)
    tokenizers.load(folder).save(folder)  # with the chat template beside it
