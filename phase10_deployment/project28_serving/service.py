"""A request's way from the door to its last token: what every route does, whatever it looks like on the wire.

Came before: `EngineLoop.submit`, for one who keeps the rules. New here: the order in which things happen, and
that all of it is undone. Enter the door; make tokens; send the requests in; wait for the *first* news before
a status is sent, so that a refusal is still a refusal, and a router may still ask another server; pass on
what comes; and at the end, however it comes (done, failed, cut off, gone), cancel what still runs and give
back what was taken. A sender who hangs up is noticed where it listens: nobody writes for the wind.
"""

import asyncio
from dataclasses import dataclass
from functools import cached_property

from starlette.responses import Response

from phase04_advanced_inference.project12_dynamic_batching.sequence import checked

from .engine_loop import EngineLoop
from .json_mode import JsonGuide, Vocabulary
from .limits import Door, Keys, Places, Refused
from .metrics import Metrics, look
from .protocol import problem, several
from .wire import DONE, Writer, mingled, used

LONG = 2000  # characters from which on a text is made into tokens beside the event loop


@dataclass(frozen=True)
class Bounds:
    """What one request, and all together, may take."""

    places: int = 256
    """Requests that run or wait; each choice of a request counts."""
    seconds: float = 300.0
    """For an answer: then it is cut, or, where nothing has come, refused."""
    max_tokens: int = 4096
    """New tokens of an answer."""
    choices: int = 32
    """Prompts of a request times n."""
    body: int = 1 << 20
    """Bytes of a request."""
    body_seconds: float = 20.0
    """For a request to be all there."""


async def unless_gone(receive, work, seconds=None):
    """What the coroutine `work` returns, or None where the sender hangs up, or the time is up, before."""

    async def gone():
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Stream(Response):
    """A response in parts, as they come; `close` is called at its end, whichever it is."""

    media_type = "text/event-stream"

    def __init__(self, parts, close=lambda: None, seconds=None):
        self.parts, self.close, self.seconds = parts, close, seconds
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope, receive, send):
        try:
            await unless_gone(receive, self.feed(send), self.seconds)
        finally:
            self.close()

    async def feed(self, send):
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self.parts:
            if part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Service:
    """One model behind a door. name: how requests call it. make(switches) -> engine: for other switches."""

    def __init__(self, engine, name, *, keys=None, bounds=None, make=None):
        self.name, self.bounds, self.make = name, bounds or Bounds(), make
        self.loop = EngineLoop(engine, watch=lambda *seen: self.metrics.watch(*seen), look=look)
        self.metrics = Metrics(name, lambda: self.loop.snapshot)
        self.door = Door(keys or Keys(), Places(self.bounds.places))
        self.words, self.config = engine.tokenizer, engine.model.config

    @cached_property
    def vocabulary(self):
        return Vocabulary(self.words, self.config.vocab_size)

    @property
    def capacity(self):
        """How many tokens one request may hold: of the engine that serves just now."""
        return self.loop.engine.store.capacity

    @property
    def room(self):
        """Of these, how many the model can look at. The last token that is drawn is never read."""
        return min(self.config.max_seq_len, self.capacity)

    @property
    def ready(self):
        return self.loop.alive and not self.door.draining

    def known(self, model):
        if model != self.name:
            raise Refused(404, "model_not_found", f"there is no model {model!r:.100} here: ask {self.name}",
                          param="model")  # fmt: skip

    async def ids_of(self, make, size):
        """The ids that make() gives, of a text of `size` characters; checked. Refused where they are more
        than the context holds; UserError where they are no ids of this model, or none."""
        ids = await asyncio.to_thread(make) if size > LONG else make()
        if len(ids) > self.room:
            raise Refused(400, "context_length_exceeded", f"a prompt of {len(ids)} tokens, and there is room "
                          f"for {self.room}: shorten it")  # fmt: skip
        return checked(ids, self.config, self.capacity)

    async def prompts(self, given):
        """The ids of a text, of ids, or of a list of such: a list of lists."""
        return [await self.ids_of(lambda one=one: self.words.encode(one) if isinstance(one, str) else one,
                                  len(one)) for one in several(given)]  # fmt: skip

    async def chat(self, messages):
        """The ids of a conversation, by the model's own template, with the beginning of an answer."""
        said = [message.plain() for message in messages]
        return await self.ids_of(lambda: self.words.chat_ids(said, add_generation_prompt=True),
                                 sum(len(one["content"]) for one in said))  # fmt: skip

    async def writers(self, key, asked, shape, prompts, log):
        """Through the door and into the engine: (a Writer for each choice, what gives everything back)."""
        samplings, n = asked.sampling(self.bounds.max_tokens).rows(asked.copies), len(prompts) * asked.copies
        if n > self.bounds.choices:
            raise Refused(400, "too_many_choices", f"{n} answers are asked for, and {self.bounds.choices} "
                          "may be at a time: fewer prompts, or a smaller n")  # fmt: skip
        vocabulary = await asyncio.to_thread(lambda: self.vocabulary) if asked.json_only else None
        read, most = sum(map(len, prompts)), samplings[0].max_tokens
        cost = read + asked.copies * sum(min(most, self.room + 1 - len(ids)) for ids in prompts)
        entry, writers, open_still = self.door.enter(key, cost, n), [], [True]

        def close():
            if open_still.pop() if open_still else False:
                for writer in writers:
                    self.loop.cancel(writer.ticket)
                new = sum(writer.ticket.n_new for writer in writers)
                log.update(key=key.name, prompt_tokens=read, new_tokens=new)
                self.door.leave(entry, read + new)

        try:
            for ids in prompts:
                for sampling in samplings:
                    guide = JsonGuide(vocabulary) if vocabulary else None
                    ticket = self.loop.submit(ids, sampling, tenant=key.name, guide=guide,
                                              seconds=self.bounds.seconds)  # fmt: skip
                    writers.append(Writer(len(writers), ticket, shape, asked.usage_wanted))
        except BaseException:
            close()
            raise
        return writers, close

    def sound(self, writer):
        """Refused where a choice has failed, or its time was up before anything came of it."""
        if writer.finish == "cancelled":
            raise Refused(503, "timeout", f"no answer within {self.bounds.seconds:g} s", after=1)
        if writer.finish == "error":
            status = 500 if self.loop.alive else 503
            raise Refused(status, "engine_error", writer.error, after=None if status == 500 else 5)

    async def gather(self, writers, shape, per_prompt):
        """The answers, whole, when the last one is there."""
        async for writer in mingled(writers, lambda writer, events: writer.gather(events) or writer):
            self.sound(writer)
        return shape.whole([one.choice() for one in writers], shape.usage(*used(writers, per_prompt)))

    async def parts(self, writers, shape, asked, first):
        """The answers as a stream. first: (a writer, its first news), which have been waited for."""
        for writer in writers:
            if opening := shape.opening(writer.index):
                yield shape.data([opening], None, asked.usage_wanted)
        yield first[0].delta(first[1])
        try:
            self.sound(first[0])
            left = [one for one in writers if one.finish is None]
            async for writer, part in mingled(left, lambda writer, news: (writer, writer.delta(news))):
                yield part
                self.sound(writer)
        except Refused as refused:  # the status is sent: the stream says it
            yield shape.problem(problem(refused.status, refused.code, refused.why))
        else:
            if asked.usage_wanted:
                yield shape.data([], shape.usage(*used(writers, asked.copies)), True)
        yield DONE

    async def answer(self, key, asked, shape, prompts, receive, log):
        """The body of an answer (a dict), a Stream of it, or None where nobody waits any more."""
        writers, close = await self.writers(key, asked, shape, prompts, log)
        streaming = False
        try:
            if not asked.stream:
                return await unless_gone(receive, self.gather(writers, shape, asked.copies))
            news = await unless_gone(receive, writers[0].ticket.news())
            if news is None:
                return None
            if news[-1].finish in ("error", "cancelled") and not writers[0].ticket.n_new:
                writers[0].take(news)
                self.sound(writers[0])
            streaming = True
            seconds = self.bounds.seconds + self.bounds.body_seconds  # for one that does not read
            return Stream(self.parts(writers, shape, asked, (writers[0], news)), close, seconds)
        finally:
            if not streaming:
                close()
