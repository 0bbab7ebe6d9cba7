"""One thread owns the engine; everybody else sends it letters, and gets letters back.

Came before: project 12's engine, driven by whoever asks: `engine.generate(prompts)` returns when all is done,
and nobody can step in meanwhile. New here: a server's requests come and go at any moment. Two ways suggest
themselves and both are bad: a lock around `step` (whoever wants to put in a request waits for a forward), and
a thread for each request (which all wait for the lock). Instead the engine has *one owner*, a thread that
does nothing but this:

    turn:   obey all that lies in the inbox (begin, cancel, look)  →  one step  →  tell what came of it

The owner never waits for anybody, and nobody for the owner: while a forward computes, it holds no lock of
Python's, and the event loop reads requests, makes tokens of them and writes to sockets. What a step brought
crosses over as *one* message, however many texts grew: to wake the other thread costs more than to carry a
token. Who reads slowly finds all that came meanwhile in one piece: `Ticket.news` empties the box.

Seam: the engine's own. Yu et al. 2022, "Orca", OSDI; vLLM's AsyncLLM and SGLang's scheduler do likewise.
"""

import asyncio
import queue
import threading
import time
from collections import deque

from common.errors import UserError
from common.exercise import exercise
from phase04_advanced_inference.project12_dynamic_batching.sequence import Event


def one_at_a_time(engine, requests):
    """The naive server: each (ids, Sampling) in turn, alone. Answers. The text and the oracle."""
    return [engine.generate([ids], [sampling])[0] for ids, sampling in requests]


class EngineDown(Exception):
    """The owner has stopped: it was told to, or a step failed."""


class Ticket:
    """One request, as its sender holds it: what came lies in `mail` until it is taken by `news`.

    It lives on one event loop. id: the engine's number, known to the owner. arrived, first, last: the clock's
    times. late: its time was up.
    """

    def __init__(self, loop, n_prompt, now, watch):
        self.loop, self.n_prompt, self.arrived, self.watch = loop, n_prompt, now, watch
        self.id = self.first = self.last = self.timer = None
        self.mail, self.ready, self.n_new = deque(), asyncio.Event(), 0
        self.late = self.left = self.done = False  # left: its sender has gone

    def receive(self, event, now):
        """On the event loop: an event has come."""
        self.watch(self, event, now)
        if event.ids:
            self.first, self.last = self.first or now, now
            self.n_new += len(event.ids)
        self.done = event.finish is not None
        if self.done and self.timer:
            self.timer.cancel()
        self.mail.append(event)
        self.ready.set()

    async def news(self):
        """All events since the last time, one at least: whoever comes seldom gets much at once."""
        while not self.mail:
            self.ready.clear()
            await self.ready.wait()
        events = list(self.mail)
        self.mail.clear()
        return events


def hand_out(letters, clock):
    """On the event loop: to each ticket its event."""
    now = clock()
    for ticket, event in letters:
        ticket.receive(event, now)


class Order:
    """Something for the owner to do; refuse: what to do instead where the owner has stopped."""

    def __init__(self, obey, refuse):
        self.obey, self.refuse = obey, refuse


class EngineLoop:
    """The owner of an engine, in a thread of its own. `start` it, `stop` it at the end.

    watch(ticket, event, now): called on the event loop for each event, before its reader sees it. snapshot:
    what `look(engine)` said after the last turn, for whoever wants to see without asking.
    """

    def __init__(self, engine, *, watch=lambda ticket, event, now: None, look=lambda engine: {},
                 clock=time.perf_counter):  # fmt: skip
        self.engine, self.watch, self.look, self.clock = engine, watch, look, clock
        self.inbox, self.tickets, self.held, self.successor = queue.SimpleQueue(), {}, [], None
        self.failure, self.stopping, self.snapshot = None, False, look(engine)
        self.thread = threading.Thread(target=self.run, name="engine", daemon=True)

    def start(self):
        self.thread.start()
        return self

    def stop(self, timeout=10.0):
        """End the thread; whoever still waits is told so."""
        self.stopping = True
        self.inbox.put(Order(lambda: None, lambda: None))  # to wake it
        if self.thread.ident is not None:
            self.thread.join(timeout)

    @property
    def alive(self):
        """Does it take requests?"""
        return self.failure is None and not self.stopping

    # ---- called on the event loop ----

    def put(self, order):
        self.inbox.put(order)
        if not self.alive:
            self.dismiss()  # the owner may have looked for the last time

    def submit(self, ids, sampling, *, tenant="", guide=None, seconds=None):
        """Send a request in: a Ticket. seconds: after which it is ended, however far it has come."""
        if not self.alive:
            raise EngineDown(str(self.failure or "the server is stopping"))
        loop = asyncio.get_running_loop()
        ticket = Ticket(loop, len(ids), self.clock(), self.watch)
        if seconds is not None:
            ticket.timer = loop.call_later(seconds, self.expire, ticket)
        order = Order(lambda: self.begin(order, ticket, ids, sampling, tenant, guide),
                      lambda: self.send([(ticket, self.refusal())]))  # fmt: skip
        self.put(order)
        return ticket

    def expire(self, ticket):
        ticket.late = True
        self.cancel(ticket)

    def cancel(self, ticket):
        """End a request, whether it waits or runs; its room is free before the next step."""
        if not ticket.done:
            self.put(Order(lambda: self.drop(ticket), lambda: None))

    def cut(self):
        """End all that are served, as if the time of each were up."""

        def obey():
            for ticket in self.tickets.values():
                ticket.late = True
                self.drop(ticket)

        self.put(Order(obey, lambda: None))

    async def call(self, function):
        """function(engine), in the owner's thread between two steps: what it returned, or raised."""
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        def settle(how, what):
            loop.call_soon_threadsafe(lambda: answer.cancelled() or getattr(answer, how)(what))

        def obey():
            try:
                settle("set_result", function(self.engine))
            except Exception as error:
                settle("set_exception", error)

        self.put(Order(obey, lambda: settle("set_exception", EngineDown(str(self.failure or "stopping")))))
        return await answer

    async def replace(self, engine):
        """Another engine, once this one's requests have ended; who comes meanwhile waits for the new one."""
        await self.call(lambda old: setattr(self, "successor", engine))
        while self.successor is not None and self.alive:
            await asyncio.sleep(0.005)

    # ---- the owner ----

    def run(self):
        try:
            while not self.stopping:
                self.turn()
        except Exception as error:  # a step that fails leaves an engine that nobody should trust
            self.failure = error
        finally:
            self.stopping = True
            self.send([(ticket, self.refusal(ticket.id)) for ticket in self.tickets.values()])
            self.tickets.clear()
            for order in self.held:
                order.refuse()
            self.dismiss()

    def refusal(self, id=-1):
        return Event(id, finish="error", error=f"the engine has stopped: {self.failure or 'told to'}")

    def dismiss(self):
        """Refuse all that lies in the inbox; from any thread."""
        try:
            while True:
                self.inbox.get_nowait().refuse()
        except queue.Empty:
            return

    @exercise
    def collect(self):
        """All orders that lie in the inbox, in their order: a list.

        Where the engine is busy it never waits: an empty inbox gives []. Where it is not, there is nothing
        to do until an order comes, so it waits for the first one and takes along what lies behind it.
        """
        orders = [] if self.engine.busy else [self.inbox.get()]
        while not self.inbox.empty():
            orders.append(self.inbox.get())
        return orders

    def turn(self):
        """Obey, step, tell. A request that came in before the turn takes part in its step."""
        for order in self.collect():
            order.obey()
        if self.engine.busy:
            events = self.engine.step()
            self.snapshot = self.look(self.engine)  # first: who has his last token finds it counted
            self.tell(events)
        if self.successor is not None and not self.engine.busy:
            self.engine, self.successor = self.successor, None
            held, self.held = self.held, []
            for order in held:
                order.obey()
        self.snapshot = self.look(self.engine)

    def begin(self, order, ticket, ids, sampling, tenant, guide):
        if self.successor is not None:
            self.held.append(order)
        elif ticket.left:
            self.send([(ticket, Event(-1, finish="cancelled"))])
        else:
            try:
                ticket.id = self.engine.begin(ids, sampling, tenant=tenant, guide=guide)
                self.tickets[ticket.id] = ticket
            except UserError as error:
                self.send([(ticket, Event(-1, finish="error", error=str(error)))])

    def drop(self, ticket):
        ticket.left = True
        if ticket.id is not None:
            self.engine.cancel(ticket.id)

    @exercise
    def tell(self, events):
        """Give the events of a step to `send`, each with the ticket that it is for, in one list.

        A ticket whose request has ended is forgotten; events that nobody waits for are dropped.
        """
        letters = []
        for event in events:
            ticket = self.tickets.get(event.id) if event.finish is None else self.tickets.pop(event.id, None)
            if ticket is not None:
                letters.append((ticket, event))
        self.send(letters)

    def send(self, letters):
        """One message for each event loop. One that is closed has nobody left who reads."""
        loops = {}
        for ticket, event in letters:
            loops.setdefault(ticket.loop, []).append((ticket, event))
        for loop, some in loops.items():
            try:
                loop.call_soon_threadsafe(hand_out, some, self.clock)
            except RuntimeError:  # closed
                for ticket, _ in some:
                    if self.tickets.pop(ticket.id, None) is not None:
                        self.engine.cancel(ticket.id)
