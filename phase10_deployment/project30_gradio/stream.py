"""An answer as it comes: server-sent events out of bytes in any pieces, and told in few pieces, not in many.

Came before: project 28 writes a line for every token. New here: the other end of the line. The naive page,
and most demos, hand over *all of the text so far* after each token: n tokens of an answer become n(n + 1)/2
tokens to serialise, to send and to draw (`retold`). And they do so two hundred times a second, for eyes that
see no more than some thirty. So here the text is told by what is new, and all that came within a blink goes
as one piece (`coalesced`): the first word at once, as that is what people wait for.

Seam: none; this file knows no model. Server-Sent Events: WHATWG HTML, section 9.2; OpenAI's API reference.
"""

import asyncio
import json
import re
from dataclasses import dataclass, field

from common.errors import UserError
from common.exercise import exercise

DONE = "[DONE]"


def retold(pieces):
    """The naive page: after each piece all of the text so far. The text and the oracle: its last is right."""
    text = ""
    for piece in pieces:
        text += piece
        yield text


# ---- bytes to events ----


class Events:
    """Server-sent events. `feed` it bytes as they come from the socket: what they complete comes out."""

    def __init__(self):
        self.left, self.data = b"", []  # an unfinished line; data lines of an unfinished event

    @exercise
    def feed(self, piece):
        r"""The data of each event that this piece of bytes completes: a list of texts, often empty.

        A line ends in \n, \r\n or \r. `data: x` holds x, and so does `data:x`: one space is not part of it.
        An empty line ends the event; its data lines are joined by \n; one without any is none. A line that
        begins with a colon, or with another field's name, is passed over. What is not complete waits: half a
        line, half a character, and a \r at the end, which may be half of a \r\n.
        """
        *lines, self.left = re.split(rb"\r\n|\n|\r(?!\Z)", self.left + piece)
        found = []
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                self.data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
            elif not line and self.data:
                found.append("\n".join(self.data))
                self.data = []
        return found


# ---- many pieces to few ----


@exercise
async def coalesced(source, every=0.03, stop=None):
    """What an async generator gives, in lists: nothing is lost, and none come faster than eyes see.

    The first item comes at once, alone. From then on at least `every` seconds lie between two lists, and a
    list holds all that came meanwhile; an item that comes after a longer silence comes at once. When the
    source ends, what is left comes at once. What the source raises is raised, after all that came before it.
    stop: an asyncio.Event; once it is set, what is there is told and that is the end. However it ends, also
    by being closed itself, the source is closed: somewhere a server is computing for it.
    """
    box, news, loop = [], asyncio.Event(), asyncio.get_running_loop()

    async def read():
        async for item in source:
            box.append(item)
            news.set()

    ends = [asyncio.ensure_future(read())] + ([asyncio.ensure_future(stop.wait())] if stop else [])
    for end in ends:
        end.add_done_callback(lambda _: news.set())
    try:
        while True:
            await news.wait()
            news.clear()
            over = any(end.done() for end in ends)
            if box:
                some, box[:], due = box[:], [], loop.time() + every
                yield some
                await asyncio.wait(ends, timeout=due - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if over and not box:
                break
        if ends[0].done():
            ends[0].result()  # its error, if it has one
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        await source.aclose()


# ---- events to an answer ----


@dataclass
class Answer:
    """An answer as far as it has come, and its figures. Times: seconds of the clock that `take` is given."""

    asked: float
    first: float | None = None  # when the first text came
    last: float | None = None  # and the latest
    pieces: list = field(default_factory=list)
    finish: str | None = None  # stop, length; None: it was cut off
    usage: dict = field(default_factory=dict)

    @property
    def text(self):
        return "".join(self.pieces)

    def take(self, data, now):
        """One event's data: the text that is new. UserError with the server's words where it is an error."""
        try:
            body = json.loads(data)
        except ValueError:
            raise UserError(f"the server sent what is no JSON: {data[:80]!r}") from None
        if not isinstance(body, dict):
            raise UserError(f"the server sent what is no event: {data[:80]!r}")
        if error := body.get("error"):
            raise UserError(str(error.get("message", error) if isinstance(error, dict) else error))
        self.usage = body.get("usage") or self.usage
        choice = next(iter(body.get("choices") or []), {})
        self.finish = choice.get("finish_reason") or self.finish
        text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        if text:
            self.first, self.last = self.first or now, now
            self.pieces.append(text)
        return text

    def figures(self):
        """What there is of: ttft (s), rate (tokens/s behind the first), new, prompt, cached (tokens),
        accepted (the share of guesses that were right). A server that does not tell is not guessed at."""
        found, usage = {}, self.usage
        if self.first is not None:
            found["ttft"] = self.first - self.asked
        new = usage.get("completion_tokens")
        if new and self.first is not None:
            found["new"] = new
            if new > 1 and self.last > self.first:
                found["rate"] = (new - 1) / (self.last - self.first)
        if "prompt_tokens" in usage:
            found["prompt"] = usage["prompt_tokens"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is not None:
            found["cached"] = cached
        guessed = usage.get("completion_tokens_details") or {}
        right = guessed.get("accepted_prediction_tokens") or 0
        if total := right + (guessed.get("rejected_prediction_tokens") or 0):
            found["accepted"] = right / total
        return found


async def answered(pieces, answer, clock, finished=lambda: None):
    """The new texts of an answer, out of an async generator of bytes, each as it comes; `answer` takes note.

    UserError where the stream ends without [DONE]: half an answer is not passed off as one.
    """
    events = Events()
    try:
        async for piece in pieces:
            for data in events.feed(piece):
                if data == DONE:
                    return
                if text := answer.take(data, clock()):
                    yield text
        raise UserError("the server broke off in the middle of the answer")
    finally:
        await pieces.aclose()
        finished()
