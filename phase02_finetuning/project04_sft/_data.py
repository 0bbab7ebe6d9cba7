"""From rows to batches: which rows are trained on, as which examples, in which order."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from common.errors import demand
from data.synthetic import split_of
from data.tinytown import TinyTown

from . import rows as sources
from .sft import Batch, Example, encode, end_of_text, pack, pad, plain, truncate

ENCODERS = {"instruction": encode, "plain": plain}
HELD_OUT = 0.05  # of rows from outside
MOST_HELD_OUT = 400


class Data(NamedTuple):
    """What a run learns from, and what it is judged by."""

    train: list[Example]
    valid: list[Example]
    rows: list[dict]  # of `train`
    held: list[dict]  # of `valid`
    bad: int  # malformed rows left out
    cut: int  # rows that were longer than the context


def load(config, tokenizer, context: int, say) -> Data:
    """TinyTown has a held-out split of its own, of other pairs and people; other rows are split by hash."""
    if config.data == sources.TOWN:
        chosen = {"families": [name for name in config.families.split(",") if name]}
        kept, bad = sources.read(config.data, config.rows, split="train", seed=config.seed, **chosen)
        held = sources.read(config.data, min(MOST_HELD_OUT, config.rows), split="held-out", **chosen).rows
    else:
        found, bad = sources.read(config.data, config.rows, on_bad=config.on_bad, say=say)
        shares = {"valid": HELD_OUT, "train": 1 - HELD_OUT}
        parts = [split_of("\n".join(turn["content"] for turn in row["messages"]), shares) for row in found]
        kept = [row for row, part in zip(found, parts, strict=True) if part == "train"]
        held = [row for row, part in zip(found, parts, strict=True) if part == "valid"][:MOST_HELD_OUT]
        few = f"{config.data} has {len(found)} rows, and one in twenty is held out: give at least 50 or so"
        demand(kept and held, few)
    train, cut = examples(kept, tokenizer, config.mode, context)
    valid, _ = examples(held, tokenizer, config.mode, context)
    tokens = sum(len(example.tokens) for example in train)
    train += pages(tokenizer, int(config.pages * tokens), context)
    return Data(train, valid, kept, held, len(bad), cut)


def examples(rows: list[dict], tokenizer, mode: str, context: int) -> tuple[list[Example], int]:
    """(rows as examples, how many of them had to be cut)"""
    whole = [ENCODERS[mode](row["messages"], tokenizer) for row in rows]
    return [truncate(each, context) for each in whole], sum(len(each.tokens) > context for each in whole)


def pages(tokenizer, tokens: int, context: int) -> list[Example]:
    """Pages of the town, about so many tokens, as examples in which everything counts."""
    found, total, stream = [], 0, TinyTown().pages()
    while total < tokens:
        ids = [*tokenizer.encode(next(stream)), end_of_text(tokenizer)][:context]
        found.append(Example(ids, [True] * len(ids)))
        total += len(ids)
    return found


def batch_of(chosen: list[Example], context: int, pad_id: int, packing: bool) -> Batch:
    """These examples as one batch: packed, or one a row."""
    return pack(chosen, context, pad_id) if packing else pad(chosen, pad_id)


def order(n: int, config) -> Callable[[int], list[int]]:
    """chosen(i): which of n examples update i learns from, a pure function of the seed and i; every epoch is
    shuffled anew."""
    per_epoch = -(-n // config.batch_size)

    def chosen(i: int) -> list[int]:
        epoch, place = divmod(i, per_epoch)
        draw = torch.Generator().manual_seed(1_000_003 * config.seed + epoch)
        shuffled = torch.randperm(n, generator=draw)
        return shuffled[place * config.batch_size : (place + 1) * config.batch_size].tolist()

    return chosen


def batches(found: list[Example], config, context: int, pad_id: int, device="cpu") -> Callable[[int], Batch]:
    """batch_at(i): the examples of update i. Packed or padded, an update sees the same ones."""
    chosen = order(len(found), config)
    return lambda i: batch_of([found[k] for k in chosen(i)], context, pad_id, config.packing).to(device)


def filling(found: list[Example], config) -> float:
    """η: the share of real tokens in the first updates, if each row held one example."""
    chosen, lengths = order(len(found), config), [len(example.tokens) - 1 for example in found]
    rows = [[lengths[k] for k in chosen(i)] for i in range(min(8, -(-len(found) // config.batch_size)))]
    return sum(map(sum, rows)) / sum(len(row) * max(row) for row in rows)
