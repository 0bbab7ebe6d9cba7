"""Text from a model: one token drawn after another, for a batch of rows that hold equally many tokens.

    sampling = Sampling(max_tokens=100, temperature=0.8, top_p=0.95, seed=7)
    for piece in stream(model, [ids], sampling, tokenizer=tokenizer):    # as they come
        print(piece.text, end="")
    [answer] = generate(model, [ids], sampling, tokenizer=tokenizer)     # at the end

Rows of different lengths are the engine's business (project 12).
"""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from common.errors import UserError, demand
from common.model import Cache
from common.sampling import Sampling, draw, sample
from common.stops import TextStream

__all__ = [
    "Answer", "Piece", "Sampling", "TextStream", "TokenLogprob", "draw", "generate", "sample", "stream",
]  # fmt: skip


@dataclass(frozen=True)
class TokenLogprob:
    """ln of the probability that the model gave a token, before temperature and truncation.

    top: (id, ln) of the likeliest, best first.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """One token of one row. text may lag behind: it is whole characters, and no part of a stop text."""

    row: int
    id: int
    text: str
    logprob: TokenLogprob | None
    finish: str | None  # "stop" or "length" in a row's last piece


@dataclass(frozen=True)
class Answer:
    """One row at the end. ids hold the end-of-text token, if one was drawn, and the tokens of a stop text."""

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish: str


class Row:
    """What one row must remember between two tokens."""

    def __init__(self, number, sampling, limit, tokenizer, eos_ids):
        demand(tokenizer or not sampling.stop, "stop texts are found in text: pass the tokenizer too")
        self.number, self.left, self.finish = number, min(limit, sampling.max_tokens), None
        self.seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self.eos_ids = () if sampling.ignore_eos else eos_ids
        self.text = TextStream(tokenizer, sampling.stop) if tokenizer else None

    def push(self, token, logprob):
        self.left -= 1
        ended = token in self.eos_ids
        text = self.text.push(token) if self.text and not ended else ""
        ended = ended or bool(self.text and self.text.stopped)
        self.finish = "stop" if ended else "length" if self.left == 0 else None
        text += self.text.finish() if self.text and self.finish else ""
        return Piece(self.number, token, text, logprob, self.finish)


def as_tokens(model, prompts, tokenizer):
    """Prompts, checked: int64 (B, T) on the model's device."""
    try:
        given = prompts.tolist() if isinstance(prompts, torch.Tensor) else prompts
        rows = [[int(i) for i in row] for row in given]
    except (TypeError, ValueError):
        raise UserError(
            "prompts are rows of ids, [[5, 7, 11]]: encode text first, wrap a single row"
        ) from None
    demand(rows and all(rows), "the prompt is empty: begin with a token, such as the tokenizer's end of text")
    lengths = sorted({len(row) for row in rows})
    how = "left padding is nowhere supported: pass rows of one length, or use the engine of project 12"
    demand(len(lengths) == 1, f"rows of {lengths[0]} to {lengths[-1]} tokens in one batch; {how}")
    pads = {getattr(tokenizer, "pad_id", None)} - {*getattr(tokenizer, "eos_ids", ())}  # GPT-2's are one
    demand(all(row[0] not in pads for row in rows), f"a row begins with padding; {how}")
    V = model.config.vocab_size
    wrong = [i for row in rows for i in row if not 0 <= i < V]
    demand(not wrong, f"ids {wrong[:3]} are not among the model's {V}: is this the model's own tokenizer?")
    return torch.tensor(rows, device=next(model.parameters()).device)


def fit(model, tokens, held, max_tokens):
    """tokens (B, T), the most recent of them where all would not fit, and how many tokens may follow."""
    room = model.config.max_seq_len - held
    demand(room > 0, f"the caches hold {held} tokens, the whole context: begin with new ones")
    T = tokens.size(1)
    if room < T:
        tokens = tokens[:, -(room + 1 - min(max_tokens, (room + 1) // 2)) :]
        message = "a prompt of %d tokens is longer than the context of %d: only the last %d are read"
        logging.getLogger(__name__).warning(message, T, room, tokens.size(1))
    return tokens, room + 1 - tokens.size(1)  # the last one drawn is never fed


@contextmanager
def evaluating(model):
    """The model in eval mode; afterwards each of its modules is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def tokens_held(caches):
    """How many tokens counting caches hold. Addressed ones have no length: 0."""
    lengths = sorted({getattr(cache, "length", 0) for cache in caches})
    demand(len(lengths) == 1, f"caches of one model hold {lengths} tokens: some block did not fill its own")
    return lengths[0]


def next_logits(model, tokens, caches, start):
    """What follows tokens (B, T), which stand from position `start` on: (B, V)."""
    B, T = tokens.shape
    where = {"caches": caches}
    if not hasattr(caches[0], "length"):  # of an addressed cache, the driver owns the positions
        where["positions"] = torch.arange(start, start + T, device=tokens.device).expand(B, -1)
    tokens_held(caches)  # raises if the step before left one of them behind
    if T == 1:
        return model(tokens, **where)[:, -1]  # the model itself, which may be compiled
    return model.head(model.hidden(tokens, **where)[:, -1])  # the head reads one token, not T


def report(logits, ids, samplings):
    """For each row that asks for it a TokenLogprob, else None."""
    most = min(max(sampling.logprobs for sampling in samplings), logits.size(1))
    if not most:
        return [None] * len(samplings)
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(1, ids[:, None]).squeeze(1).tolist()
    values, best = (x.tolist() for x in logprobs.topk(most))
    reports = []
    for b, sampling in enumerate(samplings):
        top = tuple(zip(best[b], values[b], strict=True))[: sampling.logprobs]
        reports.append(TokenLogprob(int(ids[b]), chosen[b], top) if sampling.logprobs else None)
    return reports


@torch.no_grad()
def stream(model, prompts, sampling=None, *, tokenizer=None, caches=None, eos_ids=None) -> Iterator[Piece]:
    """Draw tokens after prompts (B, T), and yield a Piece for each as it is drawn, in eval mode.

    sampling: one Sampling (rows of one seed draw alike) or one per row. caches: one per block, by default new
    ones of the core. eos_ids: what ends an answer, by default the tokenizer's. UserError for an empty or
    ragged batch, padding on the left, ids outside the vocabulary, and caches that are full or disagree.
    """
    tokens = as_tokens(model, prompts, tokenizer)
    sampling = sampling or Sampling()
    samplings = [sampling] * len(tokens) if isinstance(sampling, Sampling) else list(sampling)
    demand(len(samplings) == len(tokens), f"{len(samplings)} samplings for {len(tokens)} prompts")
    caches = caches or [Cache() for _ in model.blocks]
    start = tokens_held(caches)
    tokens, limit = fit(model, tokens, start, max(sampling.max_tokens for sampling in samplings))
    eos_ids = getattr(tokenizer, "eos_ids", ()) if eos_ids is None else eos_ids
    rows = [Row(number, sampling, limit, tokenizer, eos_ids) for number, sampling in enumerate(samplings)]
    seen = torch.zeros(len(rows), model.config.vocab_size, dtype=torch.bool, device=tokens.device)
    with evaluating(model):
        for i in range(limit):
            logits = next_logits(model, tokens, caches, start)
            start += tokens.size(1)
            seen.scatter_(1, tokens, True)
            draws = torch.tensor([draw(row.seed, i) for row in rows], dtype=torch.float64)
            ids = sample(logits, samplings, draws, seen=seen)
            for row, token, logprob in zip(rows, ids.tolist(), report(logits, ids, samplings), strict=True):
                if row.finish is None:
                    yield row.push(token, logprob)
            if all(row.finish for row in rows):
                return
            tokens = ids[:, None]


def generate(model, prompts, sampling=None, *, tokenizer=None, caches=None, eos_ids=None) -> list[Answer]:
    """What `stream` draws, gathered: one Answer per row."""
    rows = {}
    for piece in stream(model, prompts, sampling, tokenizer=tokenizer, caches=caches, eos_ids=eos_ids):
        rows.setdefault(piece.row, []).append(piece)
    return [
        Answer(
            ids=tuple(piece.id for piece in pieces),
            text="".join(piece.text for piece in pieces),
            logprobs=tuple(piece.logprob for piece in pieces if piece.logprob),
            finish=pieces[-1].finish,
        )
        for _, pieces in sorted(rows.items())
    ]
