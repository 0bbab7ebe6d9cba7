"""Instruction rows from anywhere: TinyTown, files, folders, published sets. All become one shape.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], ...}

Three shapes are in use outside and are turned into it on reading:

    messages     {"messages": [{"role", "content"}]}                     as here; the roles are the template's
    Alpaca       {"instruction", "input", "output"}                      input may be empty or absent
    ShareGPT     {"conversations": [{"from": "human", "value": "..."}]}  human, gpt, system

A row that is none of them, or has nothing to learn, is *malformed*: it is counted with its file and line, and
skipped or refused as asked. Nothing is guessed and nothing is mended silently.

Taori et al. 2023, "Stanford Alpaca"; Chiang et al. 2023, "Vicuna" (ShareGPT).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError, demand
from data import corpora
from data.readers import IN_MEMORY, files
from data.tinytown import TinyTown

TOWN = "tinytown"
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
SUFFIXES = (".json", ".jsonl", ".ndjson")
SHOWN = 5  # malformed rows that are named one by one


class Malformed(ValueError):
    """Why a row is no conversation, in a few words."""


class Bad(NamedTuple):
    """A row that was left out: where it stands and what is wrong with it."""

    place: str  # "file.json, line 12"
    why: str


class Read(NamedTuple):
    """What was read: rows of one shape, and those that were not."""

    rows: list[dict]
    bad: list[Bad]


# ---- one row ----


def message(given, role_key: str, text_key: str) -> dict[str, str]:
    """{"role", "content"} of one turn in either naming; Malformed where it has no known role or no text."""
    if not isinstance(given, dict) or not isinstance(given.get(text_key), str):
        raise Malformed(f"a turn without text under {text_key!r}")
    role = ROLES.get(given.get(role_key)) if isinstance(given.get(role_key), str) else None
    if role is None:
        raise Malformed(f"a turn by {given.get(role_key)!r}: the roles are {', '.join(ROLES)}")
    return {"role": role, "content": given[text_key]}


def turns_of(row: dict) -> list[dict[str, str]]:
    """The messages of a row in any of the three shapes, as yet unchecked."""
    if "messages" in row or "conversations" in row:
        shape = ("messages", "role", "content") if "messages" in row else ("conversations", "from", "value")
        if not isinstance(row[shape[0]], list):
            raise Malformed(f"{shape[0]!r} is no list of turns")
        return [message(turn, *shape[1:]) for turn in row[shape[0]]]
    parts = [row.get("instruction"), row.get("input") or "", row.get("output")]
    if not all(isinstance(part, str) for part in parts):
        known = "messages, conversations, or instruction and output"
        raise Malformed(f"none of {known}; it has {', '.join(map(str, list(row)[:5])) or 'nothing'}")
    asked = "\n\n".join(part for part in parts[:2] if part.strip())
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": parts[2]}]


def conversation(row) -> dict:
    """A row of any shape as {"messages", ...}, whatever else it holds kept; Malformed with the reason."""
    if not isinstance(row, dict):
        raise Malformed(f"a {type(row).__name__}, not an object")
    messages = turns_of(row)
    if not messages or messages[-1]["role"] != "assistant":
        raise Malformed("it does not end with a turn of the assistant, so there is nothing to learn")
    roles = [turn["role"] for turn in messages if turn["role"] != "system"]
    if roles[::2] != ["user"] * len(roles[::2]) or roles[1::2] != ["assistant"] * len(roles[1::2]):
        raise Malformed(f"user and assistant do not take turns: {', '.join(roles[:6])}")
    if "system" in [turn["role"] for turn in messages[1:]]:
        raise Malformed("a system turn behind the first")
    if not all(turn["content"].strip() for turn in messages):
        raise Malformed("an empty turn")
    rest = {key: value for key, value in row.items() if key not in ("conversations", "instruction", "output")}
    return {**rest, "messages": messages}


# ---- many rows ----


def objects(text: str) -> Iterator[tuple[int, object]]:
    """(line, value) of each element of a JSON list, or of each line of JSON Lines; a value may be Malformed.

    Of a list that breaks off, what stands before the break is given, and then the break.
    """
    start = len(text) - len(text.lstrip("\ufeff \t\r\n"))
    if text[start : start + 1] != "[":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip("\ufeff \t\r"):
                yield number, parsed(line)
        return
    yield from elements(text, start + 1)


def elements(text: str, place: int) -> Iterator[tuple[int, object]]:
    """(line, value) of each element of the JSON list that begins before `place`."""
    decode, line, counted = json.JSONDecoder().raw_decode, 1, 0
    space = re.compile(r"[ \t\r\n]*")
    while True:
        place = space.match(text, place).end()
        line, counted = line + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            return
        try:
            value, place = decode(text, place)
        except (ValueError, RecursionError) as error:
            yield line, Malformed(f"broken JSON from here on ({error})")
            return
        yield line, value
        place = space.match(text, place).end()
        if text[place : place + 1] not in (",", "]"):
            yield line, Malformed("broken JSON behind this row: no comma, and no end of the list")
            return
        place += text[place] == ","


def parsed(line: str):
    try:
        return json.loads(line.strip("\ufeff \t\r"))
    except (ValueError, RecursionError) as error:
        return Malformed(f"broken JSON ({error})")


def sift(found: Iterable[tuple[str, object]]) -> Read:
    """(place, value) pairs into rows and those that are none; a value may be a Malformed already."""
    rows, bad = [], []
    for place, value in found:
        try:
            if isinstance(value, Malformed):
                raise value
            rows.append(conversation(value))
        except Malformed as why:
            bad.append(Bad(place, str(why)))
    return Read(rows, bad)


def in_files(path: Path) -> Iterator[tuple[str, object]]:
    """(place, value) of each row below a file or folder; of a folder, its JSON files."""
    found = [file for file in files(path) if path.is_file() or file.suffix.lower() in SUFFIXES]
    demand(found, f"no file in {path} ends in {', '.join(SUFFIXES)}: rows come as JSON or JSON Lines")
    for file in found:
        try:
            size = file.stat().st_size
            demand(size <= IN_MEMORY, f"{file} is {size / 1e6:,.0f} MB, and is read whole: split it up")
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            yield str(file), Malformed(f"cannot be read ({error})")
            continue
        yield from ((f"{file}, line {line}", value) for line, value in objects(text))


def from_hub(name: str, most: int) -> Iterator[tuple[str, object]]:
    """(place, value) of each row of a published set, through `datasets`; NAME or NAME:split."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name} is no file and no corpus of ours; sets of the hub are read by datasets: "
                        "install the extra `hub`") from None  # fmt: skip
    name, _, split = name.partition(":")
    try:
        found = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # the library raises nothing narrower
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"there is no file {name}, and the hub gave no such set: {why}") from None
    return ((f"{name}, row {i}", row) for i, row in enumerate(islice(found, most or None)))


def read(place: str, most: int = 0, *, on_bad: str = "skip", say: Callable[[str], object] = print,
         **town) -> Read:
    """Rows of "tinytown", of a corpus ("instructions", "alpaca"), a file, a folder, or a set of the hub.

    most: rows at most, 0 for all. on_bad: "skip" counts malformed rows and names the first few, "refuse"
    makes the first one a UserError. town: of `TinyTown.instructions`. UserError where no row is left.
    """
    if place == TOWN:
        demand(most > 0, "TinyTown never ends: say how many rows")
        return Read(list(islice(TinyTown().instructions(**town), most)), [])
    corpus = next((c for c in corpora.CORPORA if c.is_rows and place in (c.name, *c.aliases)), None)
    path = corpora.path(corpus.name, say=say) if corpus and not Path(place).exists() else Path(place)
    missing = path.suffix.lower() in SUFFIXES and not path.exists()
    demand(not missing, f"there is no file {path}: check the path")
    rows, bad = sift(in_files(path) if path.exists() else from_hub(place, most))
    for place_of, why in bad[: SHOWN if on_bad == "skip" else 1]:
        demand(on_bad == "skip", f"{place_of}: {why}; mend it, or leave such rows out by --on-bad skip")
        say(f"left out {place_of}: {why}")
    if len(bad) > SHOWN:
        say(f"left out {len(bad) - SHOWN} more, {len(bad)} in all of {len(rows) + len(bad)}")
    demand(rows, f"{place} holds no row to learn from ({len(bad)} malformed): see `./thirty run 4 --help`")
    return Read(rows[: most or None], bad)
