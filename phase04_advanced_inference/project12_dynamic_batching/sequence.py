"""A request on its way: its ids, how many of them the model has read, and when it ends.

Came before: a loop around the model held all of this in local variables, for one text or for rows that march
in step. New here: it is an object, so that a text can be put down after any token and taken up again.

One number says what is to be done: `pending`, the ids that were not fed yet. 1: a decode. More: a prefill, or
what is left of it, or a verification of guesses, or a text that lost its cache and is read again.
"""

from dataclasses import dataclass

from common.errors import UserError, demand
from common.exercise import exercise
from common.generate import Answer, Row, TokenLogprob


class Sequence:
    """ids: the prompt, then what was drawn. computed: how many of ids have keys and values in the store.

    guesses: ids that a draft proposes to follow; fed with the rest, kept only as far as they prove right.
    due: the clock's time by which its turn should have come; a smaller one goes first.
    """

    def __init__(self, id, prompt, sampling, row, *, due=0.0, tenant="", arrived=0.0, deadline=None):
        self.id, self.ids, self.n_prompt = id, list(prompt), len(prompt)
        self.sampling, self.row = sampling, row
        self.due, self.tenant, self.arrived, self.deadline = due, tenant, arrived, deadline
        self.computed, self.guesses, self.preemptions = 0, [], 0
        self.first_at = self.ended_at = None  # the clock's times of the first token and of the last
        self.text = ""  # of what was drawn, as far as it is whole characters; where there is a tokenizer

    def __repr__(self):
        return f"Sequence({self.id}: {self.computed} of {self.n_prompt} + {self.n_new} read)"

    @property
    def n_new(self):
        """How many ids were drawn."""
        return len(self.ids) - self.n_prompt

    @property
    def new(self):
        """The ids that were drawn."""
        return self.ids[self.n_prompt :]

    @property
    def pending(self):
        """How many tokens, guesses among them, are to be fed before the next id can be drawn."""
        return len(self.ids) + len(self.guesses) - self.computed

    @property
    def urgency(self):
        """What queues sort by: who is due first, and among equals who came first."""
        return self.due, self.id

    def feed(self, n):
        """The next n tokens to feed; they stand at positions computed, computed + 1, …"""
        return (self.ids + self.guesses)[self.computed : self.computed + n]

    def trim(self, n):
        """Of the guesses, keep what fits into n tokens; what is not a guess waits for another step."""
        self.guesses = self.guesses[: max(0, n - (len(self.ids) - self.computed))]

    def advance(self, n):
        """n tokens were fed; True when all were, so that the logits of the last one say what follows."""
        self.computed += n
        return self.pending == 0

    @exercise
    def accept(self, ids, logprobs):
        """Take the ids that follow, one or more, each with its log-probability or None: (pieces, finish).

        All ids but the last are guesses that were fed and proved right; the last one was not fed. Each is
        pushed to `row`, which knows when to stop: what comes after the end is not taken. Afterwards
        `computed` counts exactly the ids whose keys and values are true, and no guess is left.
        """
        pieces, known = [], len(self.ids)
        for id, logprob in zip(ids, logprobs, strict=True):
            self.ids.append(id)
            pieces.append(self.row.push(id, logprob))
            if pieces[-1].finish:
                break
        self.computed, self.guesses = known + len(pieces) - 1, []
        return pieces, pieces[-1].finish

    def restart(self):
        """Its keys and values are gone: all of its ids, the drawn ones too, have to be read again."""
        self.computed, self.guesses, self.preemptions = 0, [], self.preemptions + 1


def checked(ids, config, capacity):
    """A prompt as a list of ints. UserError if it is empty, holds an unknown id, or leaves no room."""
    try:
        ids = [int(i) for i in ids]
    except (TypeError, ValueError):
        raise UserError("a prompt is one row of ids, [5, 7, 11]: encode text first") from None
    demand(ids, "the prompt is empty: begin with a token, such as the tokenizer's end of text")
    wrong = [i for i in ids if not 0 <= i < config.vocab_size]
    demand(not wrong, f"ids {wrong[:3]} are not among the model's {config.vocab_size}: another tokenizer's?")
    room = min(config.max_seq_len, capacity)
    demand(len(ids) <= room, f"a prompt of {len(ids)} tokens, and there is room for {room}: shorten it")
    return ids


def sequence_of(id, ids, sampling, config, capacity, tokenizer=None, eos_ids=(), **where):
    """A Sequence that ends at its max_tokens, or where the room does: the last id drawn is never fed."""
    ids = checked(ids, config, capacity)
    limit = min(config.max_seq_len, capacity) + 1 - len(ids)
    return Sequence(id, ids, sampling, Row(id, sampling, limit, tokenizer, eos_ids), **where)


# ---- what a request's owner is told ----


@dataclass(frozen=True)
class Event:
    """What a step brought one request. finish: None | "stop" | "length" | "cancelled" | "error"."""

    id: int
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    error: str | None = None
    text: str = ""  # whole characters, where the engine has a tokenizer


def gathered(events):
    """The events of one request as an Answer. UserError where it did not come to its end."""
    last = events[-1]
    demand(last.finish in ("stop", "length"), f"request {last.id} ended early: {last.error or last.finish}")
    return Answer(
        ids=tuple(id for event in events for id in event.ids),
        text="".join(event.text for event in events),
        logprobs=tuple(logprob for event in events for logprob in event.logprobs),
        finish=last.finish,
    )
