"""Answers as OpenAI's routes give them: whole, or in pieces as they come (server-sent events).

Came before: `Event`s, each a few ids and the text that they complete. New here: their form on the wire. A
stream is lines `data: {json}`, each a *delta*: what is new, never all so far, or a long answer would be sent
in O(n²) bytes. What all deltas of an answer have in common is put together once (`Shape.frame`); a token
then costs a slip of JSON and a write. The last line is `data: [DONE]`.

Several choices (n of each prompt) are several requests to the engine; their deltas mingle, each with its
index.
"""

import asyncio
import json
import secrets
import time

from .protocol import finite

DONE = b"data: [DONE]\n\n"
STREAMED = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}  # for the description


class Shape:
    """How the answers to one request look. words: the tokenizer, for single tokens."""

    def __init__(self, model, words, alternatives):
        self.model, self.words, self.alternatives = model, words, alternatives
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())

    def head(self, kind):
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def token(self, id):
        return self.words.decode([id])

    def usage(self, read, new, cached, proposed, accepted):
        return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens_details": {"accepted_prediction_tokens": accepted,
                                              "rejected_prediction_tokens": proposed - accepted}}  # fmt: skip

    def whole(self, choices, usage):
        return {**self.head(self.kind), "choices": choices, "usage": usage}

    def data(self, choices, usage=None, asked=False):
        """One server-sent event. usage: null but in the last one, where it was asked for."""
        body = {**self.head(self.chunk), "choices": choices} | ({"usage": usage} if asked else {})
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()

    def problem(self, body):
        """A server-sent event that says what went wrong, where a status was sent before."""
        return f"data: {json.dumps(body)}\n\n".encode()

    def frame(self, index, asked):
        """(before, after) of a delta that holds text alone: what `data` would write around the text."""
        before, _, after = self.data([self.delta(index, "\0")], None, asked).partition(b'"\\u0000"')
        return before, after


class ChatShape(Shape):
    """POST /v1/chat/completions"""

    prefix, kind, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, index):
        """A stream of chat says first who speaks."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                "finish_reason": None}  # fmt: skip

    def delta(self, index, text, logprobs=None, finish=None):
        return {"index": index, "delta": {"content": text} if text else {}, "logprobs": logprobs,
                "finish_reason": finish}  # fmt: skip

    def choice(self, index, text, logprobs, finish):
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def logprobs(self, known, text_before):
        def entry(id, value):
            return {"token": self.token(id), "logprob": finite(value),
                    "bytes": list(self.words.token_bytes(id))}  # fmt: skip

        return {"content": [{**entry(one.id, one.logprob),
                             "top_logprobs": [entry(*pair) for pair in one.top[: self.alternatives]]}
                            for one in known], "refusal": None}  # fmt: skip


class TextShape(Shape):
    """POST /v1/completions"""

    prefix, kind, chunk = "cmpl", "text_completion", "text_completion"

    def opening(self, index):
        return None

    def delta(self, index, text, logprobs=None, finish=None):
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    choice = delta

    def logprobs(self, known, text_before):
        names, starts = [self.token(one.id) for one in known], [text_before]
        for name in names:
            starts.append(starts[-1] + len(name))
        return {"tokens": names, "token_logprobs": [finite(one.logprob) for one in known],
                "top_logprobs": [{self.token(id): finite(value) for id, value in
                                  [*one.top[: self.alternatives], (one.id, one.logprob)]} for one in known],
                "text_offset": starts[:-1]}  # fmt: skip


class Writer:
    """One choice as it comes: `take` the news of its ticket, get what is to be told of them."""

    def __init__(self, index, ticket, shape, asked):
        self.index, self.ticket, self.shape, self.asked = index, ticket, shape, asked
        self.text, self.known, self.finish, self.error = "", [], None, None
        self.cached = self.proposed = self.accepted = 0
        self.before, self.after = shape.frame(index, asked)

    def take(self, events):
        """(text, log-probabilities) that are new."""
        text, known = "".join(event.text for event in events), [p for event in events for p in event.logprobs]
        last = events[-1]
        if last.finish is not None:
            self.finish, self.error = last.finish, last.error
            for name in ("cached", "proposed", "accepted"):
                setattr(self, name, getattr(last, name, 0))
            if self.finish == "cancelled" and self.ticket.late and self.ticket.n_new:
                self.finish = "length"  # its time was up: what there is of it stands
        return text, known

    def delta(self, events):
        """The news as bytes for a stream: text alone goes into the frame, anything else is written out."""
        text, known = self.take(events)
        wants = self.shape.alternatives is not None
        if self.finish is None and not (wants and known):
            return self.before + json.dumps(text, ensure_ascii=False).encode() + self.after if text else b""
        logprobs = self.shape.logprobs(known, len(self.text)) if wants and known else None
        self.text += text if wants else ""
        finish = self.finish if self.finish in ("stop", "length") else None
        return self.shape.data([self.shape.delta(self.index, text, logprobs, finish)], None, self.asked)

    def gather(self, events):
        """Keep the news for an answer that is given whole."""
        text, known = self.take(events)
        self.text += text
        self.known += known

    def choice(self):
        wants = self.shape.alternatives is not None
        logprobs = self.shape.logprobs(self.known, 0) if wants else None
        return self.shape.choice(self.index, self.text, logprobs, self.finish)


async def mingled(writers, tell):
    """The news of several writers as they come: what `tell(writer, events)` makes of them."""
    if len(writers) == 1:  # no task needed
        while writers[0].finish is None:
            yield tell(writers[0], await writers[0].ticket.news())
        return
    waiting = {asyncio.ensure_future(writer.ticket.news()): writer for writer in writers}
    try:
        while waiting:
            ready, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in ready:
                writer = waiting.pop(task)
                yield tell(writer, task.result())
                if writer.finish is None:
                    waiting[asyncio.ensure_future(writer.ticket.news())] = writer
    finally:
        for task in waiting:
            task.cancel()


def used(writers, per_prompt):
    """(prompt tokens, new tokens, cached, proposed, accepted): a prompt counts once, however many choices it
    has."""
    firsts = writers[::per_prompt]
    return (sum(one.ticket.n_prompt for one in firsts), sum(one.ticket.n_new for one in writers),
            sum(one.cached for one in firsts), sum(one.proposed for one in writers),
            sum(one.accepted for one in writers))  # fmt: skip
