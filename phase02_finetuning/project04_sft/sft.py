"""Supervised fine-tuning: a conversation becomes one row of tokens, and only the answers in it are learned.

Before: the base model of project 3 continues any text, and every token of it counts (`CausalLM`). New here:
a template that says who speaks, a loss that counts what the assistant says and nothing else, and rows that
hold several conversations without wasting a slot on padding. It changes the model through its contract alone:
the mask says who may look at whom, the positions begin again with every conversation.

    tokens    <|im_start|> user ⏎ Where ? <|im_end|> ⏎ <|im_start|> assistant ⏎ The inn <|im_end|> ⏎
    counted        .         .  .   .   .     .      .       .           .     .   1   1      1     .

Instruction tuning: Wei et al. 2021, 2109.01652; Ouyang et al. 2022, 2203.02155. Packing with a mask: Krell et
al. 2021, 2107.02027. ChatML: github.com/openai/openai-python, chatml.md, 2023.
"""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from phase01_foundation.project03_pretrain.objectives import IGNORE, token_loss

__all__ = ["IGNORE", "AnswerLoss", "Batch", "Example", "encode", "pack", "pad", "prompt", "truncate"]


class Example(NamedTuple):
    """A conversation as tokens. counted[i]: token i is a target that the loss counts."""

    tokens: list[int]
    counted: list[bool]


class Batch(NamedTuple):
    """B rows of T tokens. targets[b, t] is the token after tokens[b, t], or IGNORE where it does not count.

    positions and mask are None where the model's own will do: one conversation a row, padded on the right.
    """

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    positions: Tensor | None = None  # (B, T)
    mask: Tensor | None = None  # (B, 1, T, T), True = look

    def to(self, device) -> "Batch":
        return Batch(*(part if part is None else part.to(device) for part in self))


# ---- the template ----


def marks(tokenizer) -> tuple[int, int]:
    """The ids of <|im_start|> and <|im_end|>; UserError where the tokenizer has none."""
    names = ("<|im_start|>", "<|im_end|>")
    here = all(name in tokenizer.special for name in names)
    demand(here, "this tokenizer has no <|im_start|> and <|im_end|>: take one of ./thirty run 2")
    return tuple(tokenizer.special[name] for name in names)


@exercise
def encode(messages: list[dict], tokenizer) -> Example:
    """Messages [{"role", "content"}] -> Example, each `<|im_start|>{role}\\n{content}<|im_end|>\\n` (ChatML).

    Role, line break and content are encoded together, as ordinary text: what spells a special token stays
    bytes. What counts are the content of assistant turns and the <|im_end|> behind it, not the line break
    after that. A token that lies across the head `assistant\\n` and the content counts. UserError for no
    messages.
    """
    demand(messages, "the conversation is empty: give at least one message")
    (start, end), line = marks(tokenizer), tokenizer.encode("\n")
    tokens, counted = [], []
    for message in messages:
        head, answer = f"{message['role']}\n", message["role"] == "assistant"
        said = tokenizer.encode(head + message["content"])
        reach = accumulate(len(tokenizer.token_bytes(i)) for i in said)  # where each token ends, in bytes
        tokens += [start, *said, end, *line]
        counted += [False, *(answer and place > len(head.encode()) for place in reach), answer]
        counted += [False] * len(line)
    return Example(tokens, counted)


@exercise
def prompt(messages: list[dict], tokenizer) -> list[int]:
    """The ids of a conversation with the generation prompt `<|im_start|>assistant\\n` behind it."""
    start, _ = marks(tokenizer)
    return [*encode(messages, tokenizer).tokens, start, *tokenizer.encode("assistant\n")]


def end_of_text(tokenizer) -> int:
    """The token between two documents."""
    return tokenizer.special.get("<|endoftext|>", tokenizer.eos_ids[0])


def plain_prompt(messages: list[dict], tokenizer) -> list[int]:
    """What was said, a line each, as the beginning of a document: no roles, no template."""
    lines = [[*tokenizer.encode(message["content"]), *tokenizer.encode("\n")] for message in messages]
    return [end_of_text(tokenizer), *(i for line in lines for i in line)]


def plain(messages: list[dict], tokenizer) -> Example:
    """Plain fine-tuning, for comparison: the same words as running text, every token of which counts."""
    tokens = [*plain_prompt(messages, tokenizer)[: -len(tokenizer.encode("\n"))], end_of_text(tokenizer)]
    return Example(tokens, [True] * len(tokens))


@exercise
def truncate(example: Example, context: int) -> Example:
    """At most `context` tokens of an example, cut from the left: the oldest part of the prompt goes first.

    The last answer keeps its beginning and the token before it, which asks for it. Where it does not fit by
    itself, its end is cut.
    """
    if len(example.tokens) <= context:
        return example
    first = len(example.tokens)  # of the last answer
    while first and not example.counted[first - 1]:
        first -= 1
    while first and example.counted[first - 1]:
        first -= 1
    cut = min(len(example.tokens) - context, max(0, first - 1))
    return Example(example.tokens[cut:][:context], example.counted[cut:][:context])


# ---- rows of a batch ----


def targets_of(example: Example) -> list[int]:
    """What follows each token but the last, IGNORE where it does not count: one fewer than the tokens."""
    after = zip(example.tokens[1:], example.counted[1:], strict=True)
    return [token if counts else IGNORE for token, counts in after]


@exercise
def pad(examples: list[Example], pad_id: int) -> Batch:
    """One example a row, filled up on the right: the naive way. T is the longest example less one.

    Nobody looks at what lies to the right, so neither positions nor a mask are needed.
    """
    B, T = len(examples), max(len(example.tokens) for example in examples) - 1
    tokens, targets = torch.full((B, T), pad_id), torch.full((B, T), IGNORE)
    for b, example in enumerate(examples):
        n = len(example.tokens) - 1
        tokens[b, :n] = torch.tensor(example.tokens[:-1])
        targets[b, :n] = torch.tensor(targets_of(example))
    return Batch(tokens, targets)


def shelves(lengths: list[int], context: int) -> list[list[int]]:
    """Which examples share a row: the longest first, each into the first row that has room.

    First fit decreasing: at most 11/9 of the fewest rows, and 6/9 of one (Dosa 2007).
    """
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        demand(lengths[i] <= context, f"a row of {lengths[i]} tokens in {context}: truncate comes first")
        row = next((row for row in range(len(rows)) if room[row] >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(context)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


@exercise
def pack(examples: list[Example], context: int, pad_id: int) -> Batch:
    """Several examples a row, one behind the other, none of which knows of the others. T is the fullest row.

    An example of n tokens takes n - 1 slots; which go together, `shelves` says. positions begin at 0 with
    each example. mask: a token looks at the tokens of its own example that are not behind it. What fills a
    row up is one more example, of padding, and asks for nothing. UserError where one is longer than context.
    """
    rows = shelves([len(example.tokens) - 1 for example in examples], context)
    B, T = len(rows), max(sum(len(examples[i].tokens) - 1 for i in row) for row in rows)
    tokens, targets = torch.full((B, T), pad_id), torch.full((B, T), IGNORE)
    owner, positions = torch.full((B, T), -1), torch.zeros(B, T, dtype=torch.long)
    for b, row in enumerate(rows):
        place = 0
        for i in row:
            here = slice(place, place := place + len(examples[i].tokens) - 1)
            tokens[b, here] = torch.tensor(examples[i].tokens[:-1])
            targets[b, here] = torch.tensor(targets_of(examples[i]))
            owner[b, here], positions[b, here] = i, torch.arange(here.stop - here.start)
    together = owner[:, :, None] == owner[:, None, :]  # (B, T, T)
    mask = together & torch.ones(T, T, dtype=torch.bool).tril()
    return Batch(tokens, targets, positions, mask[:, None])


# ---- the objective ----


def every_logit(model, batch: Batch) -> Tensor:
    """The naive loss: logits of all tokens, of which most are then ignored. Same value as AnswerLoss."""
    return token_loss(model(batch.tokens, positions=batch.positions, mask=batch.mask), batch.targets)


class AnswerLoss(nn.Module):
    """Batch -> mean surprise in nats over the tokens that count, over all rows together (not row by row)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @exercise
    def forward(self, batch: Batch) -> Tensor:
        """As `every_logit`, but the head reads only the places whose target counts: N of B x T. 0 if N is 0.

        The head is the widest matrix of a small model, and its (B, T, V) logits are the most memory.
        """
        counts = batch.targets != IGNORE  # (B, T)
        hidden = self.model.hidden(batch.tokens, positions=batch.positions, mask=batch.mask)  # (B, T, C)
        logits = self.model.head(hidden[counts])  # (N, V)
        return token_loss(logits[None], batch.targets[counts][None])
