"""Preference rows from TinyTown or from a file, as pairs of ids, and in batches that can be found again."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from common.errors import UserError, demand
from data import corpora
from data.files import records
from data.tinytown import TinyTown
from phase02_finetuning.project04_sft.sft import Example, marks, prompt

from .dpo import Pair, Pairs, shared, side_by_side

TOWN = "tinytown"
LAYOUTS = {"shared": shared, "side-by-side": side_by_side}
NEEDED = ("messages", "chosen", "rejected")


class Preferences(NamedTuple):
    """Rows and their pairs, to train on and held out."""

    rows: list[dict]
    pairs: list[Pair]
    held_rows: list[dict]
    held: list[Pair]


def row_of(found: dict, where: str) -> dict:
    """A row of the course's shape, or with Alpaca's instruction and input; UserError, naming `where`."""
    demand(isinstance(found, dict), f"{where} is no object with {', '.join(NEEDED)}")
    if "messages" not in found and "instruction" in found:
        text = "\n\n".join(part for part in (found["instruction"], found.get("input")) if part)
        found = {"messages": [{"role": "user", "content": text}], **found}
    if isinstance(found.get("prompt"), str):
        found = {"messages": [{"role": "user", "content": found["prompt"]}], **found}
    lacking = [name for name in NEEDED if not found.get(name)]
    demand(not lacking, f"{where} has no {' and no '.join(lacking)}: a preference row needs all of "
                        f"{', '.join(NEEDED)} (or instruction in place of messages)")  # fmt: skip
    texts = isinstance(found["chosen"], str) and isinstance(found["rejected"], str)
    demand(texts, f"{where}: chosen and rejected must be texts")
    return found


def lines_of(file: Path) -> Iterator[dict]:
    """The rows of a JSONL file; UserError with the line that is none."""
    demand(file.is_file(), f"there is no file {file}")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise UserError(f"line {number} of {file} is not JSON ({error}): mend or remove it") from None


def rows_of(source: str, say) -> Iterator[dict]:
    """The rows of a file (JSON or JSONL) or of a corpus of the course."""
    if Path(source).suffix == ".jsonl":
        found = lines_of(Path(source))
    else:
        found = records(Path(source)) if Path(source).is_file() else corpora.rows(source, say=say)
    return (row_of(row, f"row {i} of {source}") for i, row in enumerate(found, start=1))


def pair_of(row: dict, tokenizer, context: int) -> Pair:
    """A row as ids, each answer with its <|im_end|>. Too long: the prompt loses its beginning first."""
    end = marks(tokenizer)[1]
    chosen, rejected = ([*tokenizer.encode(row[name]), end] for name in ("chosen", "rejected"))
    asked, room = prompt(row["messages"], tokenizer), context - 1
    chosen, rejected = chosen[:room], rejected[:room]
    return Pair(asked[-(context - max(len(chosen), len(rejected))) :], chosen, rejected)


def read(config, tokenizer, context: int, say=print) -> Preferences:
    """The rows that the config asks for. A file is cut: its last rows are held out."""
    if config.preferences == TOWN:
        town = TinyTown()
        rows = list(islice(town.preferences("train", config.seed), config.pairs))
        held = list(islice(town.preferences("held-out"), config.held_out))
    else:
        rows = list(islice(rows_of(config.preferences, say), config.pairs + config.held_out))
        cut = max(1, len(rows) - config.held_out)
        rows, held = rows[:cut], rows[cut:]
    if not rows or not held:
        raise UserError(f"{config.preferences} holds too few rows: {config.held_out} are held out")
    pairs, kept = ([pair_of(row, tokenizer, context) for row in part] for part in (rows, held))
    long = sum(len(p.prompt) + max(len(p.chosen), len(p.rejected)) == context for p in pairs)
    say(f"{len(pairs):,} pairs to train on, {len(kept):,} held out; {long:,} fill the context of {context}")
    return Preferences(rows, pairs, held, kept)


def example(pair: Pair, answer: Sequence[int]) -> Example:
    """One answer of a pair, for plain fine-tuning."""
    return Example([*pair.prompt, *answer], [False] * len(pair.prompt) + [True] * len(answer))


def order(n: int, size: int, i: int, seed: int) -> list[int]:
    """The rows of batch i: a pure function of its number; every row once before any comes again."""
    found: list[int] = []
    for place in range(i * size, (i + 1) * size):
        epoch, at = divmod(place, n)
        shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
        found.append(int(shuffled[at]))
    return found


def batches(pairs: Sequence[Pair], size: int) -> Iterable[list[Pair]]:
    """All pairs in their order, `size` at a time."""
    return (list(pairs[i : i + size]) for i in range(0, len(pairs), size))


def laid_out(layout: str, pairs: Sequence[Pair], pad: int, reference=None) -> Pairs:
    """A batch in the layout named; reference (2, B) where it is known."""
    made = LAYOUTS[layout](pairs, pad)
    return made if reference is None else made._replace(reference=reference)
