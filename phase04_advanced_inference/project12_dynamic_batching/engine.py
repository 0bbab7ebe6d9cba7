"""The engine: one forward after the other over whatever the scheduler chose. Nobody waits for anybody.

Came before: `decode_ragged` of project 8, where all rows begin together and end together. New here: every
step asks anew who takes part. Rows of one forward stand at different places of different texts, some with one
token, some with a chunk of a prompt.

    engine = Engine(model, SlotStore(model, 16, 512), max_batch=16, max_step_tokens=256)
    id = engine.add([5, 7, 11], Sampling(max_tokens=20, seed=1))
    while engine.busy:
        for event in engine.step(): ...        # or: for event in engine.stream(id)

Seam: the contract, `model.hidden(tokens, positions=(B, T), caches=…)`. One thread owns an engine.
Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI.
"""

import itertools
import time
from collections import Counter, deque

import torch

from common.errors import demand
from common.generate import Sampling, evaluating, report

from .scheduler import Scheduler, due_at
from .sequence import Event, gathered, sequence_of
from .slots import SlotStore
from .step import draw_rows, forwards, ragged

__all__ = ["Engine", "Event", "SlotStore"]


class Engine:
    """model: any that keeps the contract. store: see `slots.Store`. tokenizer: for stop texts and `text`.

    prefix: an index of known beginnings (project 10), handed to the store. draft: guesses (project 11), with
    `propose(sequences)`, which sets their `guesses`; `verify(sequence, logits (G + 1, V)) -> ids`, the
    guesses that hold and one more; and `close(id)`. clock: seconds, for waiting times and deadlines.
    """

    def __init__(self, model, store, *, max_batch, max_step_tokens, prefix=None, draft=None, tokenizer=None,
                 eos_ids=None, clock=time.perf_counter):  # fmt: skip
        self.model, self.store, self.draft, self.tokenizer, self.clock = model, store, draft, tokenizer, clock
        self.store.prefix = prefix
        self.place = getattr(store, "place", lambda id: 0)  # where neighbours are cheap to read together
        self.eos_ids = getattr(tokenizer, "eos_ids", ()) if eos_ids is None else eos_ids
        self.scheduler = Scheduler(store, max_batch=max_batch, max_step_tokens=max_step_tokens)
        self.numbers, self.sequences, self.mail, self.late = itertools.count(), {}, {}, []
        self.seconds, self.counts, self.done = Counter(), Counter(), deque(maxlen=10_000)

    # ---- what a user calls ----

    def add(self, ids, sampling=None, *, priority=0, deadline=None, tenant=""):
        """Queue a request; returns its id. The most urgent go first; tenants share fairly.

        priority: higher is sooner. deadline: seconds from now by which its turn should have come. UserError
        for an empty prompt, an id that does not exist, a prompt over the context; nothing is queued then.
        """
        return self._queue(self._made(ids, sampling, priority, deadline, tenant))

    def fork(self, id, sampling=None, *, priority=0, deadline=None, tenant=None):
        """A new request that goes on from all that another one holds so far; returns its id.

        What was computed is not computed again, where there is room and nobody waits for it; else the new
        one queues and is read like any. tenant: by default the other's. UserError: no such request.
        """
        source = self._known(id)
        tenant = source.tenant if tenant is None else tenant
        sequence = self._made(source.ids, sampling or source.sampling, priority, deadline, tenant)
        if not self.scheduler.fork(source, sequence):
            return self._queue(sequence)
        self.sequences[sequence.id] = sequence
        return sequence.id

    @property
    def busy(self):
        """Is anything left to do, or to tell?"""
        return bool(self.sequences or self.late)

    def step(self):
        """Run the model once over what is due; what that brought, but for what a `stream` waits for."""
        self._advance()
        events, self.late = self.late, []
        return events

    def cancel(self, id):
        """End a request: True. False where there is none of that id, such as one that has ended."""
        sequence = self.sequences.get(id)
        if sequence is None:
            return False
        self._post(self._end(sequence, "cancelled"))
        return True

    def stream(self, id):
        """A request's events as they come, its last one too; meanwhile others are served. UserError: no such.

        What was drawn before comes as one event without log-probabilities.
        """
        sequence = self._known(id)
        demand(id not in self.mail, f"request {id} has a stream already: read that one, or close it")
        begun = Event(id, tuple(sequence.new), text=sequence.text)
        self.mail[id] = deque([begun] if sequence.n_new else [])
        self.late = [event for event in self.late if event.id != id]  # they are in `begun`
        reader = self._read(id)
        next(reader)  # begun, so that closing it runs its end
        return reader

    def generate(self, prompts, sampling=None):
        """An Answer for each prompt, rows of any lengths. sampling: one, or one for each."""
        alike = sampling is None or isinstance(sampling, Sampling)
        samplings = [sampling] * len(prompts) if alike else list(sampling)
        demand(len(samplings) == len(prompts), f"{len(samplings)} samplings for {len(prompts)} prompts")
        made = [self._made(*pair) for pair in zip(prompts, samplings, strict=True)]  # all are good, or none
        streams = [self.stream(self._queue(sequence)) for sequence in made]
        return [gathered(list(stream)) for stream in streams]

    def stats(self):
        """Counts since the start, what is held now, and seconds: of requests that ended, and of the host."""
        scheduler, total = self.scheduler, sum(self.seconds.values())
        return {"waiting": len(scheduler.waiting), "running": len(scheduler.running),
                "preemptions": scheduler.preemptions, "steps": self.counts["steps"],
                "tokens fed": self.counts["fed"], "tokens drawn": self.counts["drawn"],
                "finished": {kind: self.counts[kind] for kind in ("stop", "length", "cancelled", "error")},
                "late": self.counts["late"], "seconds": dict(self.seconds),
                "scheduling": self.seconds["schedule"] / total if total else 0.0,
                "requests": list(self.done)}  # fmt: skip

    # ---- how a request begins ----

    def _known(self, id):
        demand(id in self.sequences, f"no request {id} is waiting or running: it has ended, or never was")
        return self.sequences[id]

    def _made(self, ids, sampling=None, priority=0, deadline=None, tenant=""):
        """A Sequence, checked, not queued yet."""
        now = self.clock()
        return sequence_of(
            next(self.numbers), ids, sampling or Sampling(), self.model.config, self.store.capacity,
            self.tokenizer, self.eos_ids, due=due_at(now, priority, deadline), tenant=tenant, arrived=now,
            deadline=None if deadline is None else now + deadline)  # fmt: skip

    def _queue(self, sequence):
        self.sequences[sequence.id] = sequence
        self.scheduler.add(sequence)
        return sequence.id

    # ---- one step ----

    def _advance(self):
        began = self.clock()
        if self.draft is not None:
            ready = [one for one in self.scheduler.running.values() if one.pending == 1 and one.row.left > 1]
            self.draft.propose(ready)
            for one in ready:
                one.guesses = list(one.guesses)[: one.row.left - 1]
        proposed = self.clock()
        work = self.scheduler.plan()
        self.seconds["draft"] += proposed - began
        self.seconds["schedule"] += self.clock() - proposed
        if self.sequences and not work:
            raise RuntimeError("requests are here, and none can run: the plan or the store is wrong")
        self.counts["steps"] += bool(work)
        for part in forwards(work):
            for event in self._forward(part):  # told at once: another part may raise
                self._post(event)

    @torch.no_grad()
    def _forward(self, part):
        """Feed a part; the events of those who thereby came to their next token."""
        began = self.clock()
        part = sorted(part, key=lambda pair: self.place(pair[0].id))
        step = ragged(part, self.model.embed.weight.device)
        prepared = self.clock()
        with evaluating(self.model):
            hidden = self.model.hidden(step.tokens, positions=step.positions, caches=self.store.caches(step))
            rows = [row for row, (sequence, n) in enumerate(part) if sequence.advance(n)]
            logits = self.model.head(hidden[rows, -1]) if rows else None  # (R, V)
            total = logits.sum(-1, dtype=torch.float32) if rows else None  # (R,): one NaN or inf is enough
            sound = torch.isfinite(total).tolist() if rows else []  # waits for the device, too
        computed = self.clock()
        self.seconds["schedule"] += prepared - began
        self.seconds["forward"] += computed - prepared
        self.counts["fed"] += sum(step.ns)
        ready = [(part[row][0], row, i) for i, row in enumerate(rows) if sound[i]]
        why = "the logits are NaN or infinite: training diverged, or float16 overflowed"
        broken = [part[row][0] for i, row in enumerate(rows) if not sound[i]]
        events = [self._end(sequence, "error", error=why) for sequence in broken]
        events += self._draw([(one, i) for one, _, i in ready if not one.guesses], logits)
        for sequence, row, _ in [entry for entry in ready if entry[0].guesses]:
            last = len(sequence.guesses) + 1
            own = self.model.head(hidden[row, step.ns[row] - last : step.ns[row]])  # (G + 1, V)
            ids = list(self.draft.verify(sequence, own))
            known = report(own, torch.tensor(ids, device=own.device), [sequence.sampling] * len(ids))
            events.append(self._accept(sequence, ids, known))
        self.seconds["draw"] += self.clock() - computed
        return events

    def _draw(self, ready, logits):
        """One token for each (sequence, row of logits (R, V))."""
        if not ready:
            return []
        sequences = [one for one, _ in ready]
        drawn = zip(sequences, *draw_rows(logits[[i for _, i in ready]], sequences), strict=True)
        return [self._accept(one, [id], [logprob]) for one, id, logprob in drawn]

    def _accept(self, sequence, ids, logprobs):
        """A sequence takes the ids that follow; an Event."""
        reading = sequence.n_new == 0
        rejected = len(sequence.guesses) + 1 - len(ids)
        pieces, finish = sequence.accept(ids, logprobs)
        if rejected:
            self.store.reserve(sequence.id, sequence.computed)  # the room of what was guessed wrongly
        self.counts["drawn"] += len(pieces)
        sequence.first_at = self.clock() if reading else sequence.first_at
        if self.store.prefix is not None and (reading or finish):
            self.store.keep(sequence.id, sequence.ids[: sequence.computed])
        known, text = (piece.logprob for piece in pieces if piece.logprob), "".join(p.text for p in pieces)
        sequence.text += text
        what = {"ids": tuple(piece.id for piece in pieces), "logprobs": tuple(known), "text": text}
        return self._end(sequence, finish, **what) if finish else Event(sequence.id, **what)

    def _end(self, sequence, finish, **what):
        """A request leaves; its room is free at once. Its last Event."""
        self.scheduler.finish(sequence)
        del self.sequences[sequence.id]
        if self.draft is not None:
            self.draft.close(sequence.id)
        now = sequence.ended_at = self.clock()
        self.counts[finish] += 1
        self.counts["late"] += sequence.deadline is not None and now > sequence.deadline
        if sequence.first_at is not None:
            self.done.append({"id": sequence.id, "tenant": sequence.tenant, "new": sequence.n_new,
                              "ttft": sequence.first_at - sequence.arrived, "latency": now - sequence.arrived,
                              "tpot": (now - sequence.first_at) / max(1, sequence.n_new - 1),
                              "preemptions": sequence.preemptions})  # fmt: skip
        return Event(sequence.id, finish=finish, **what)

    # ---- who is told ----

    def _post(self, event):
        """To the stream that waits for it, else to the next `step`."""
        self.mail.get(event.id, self.late).append(event)

    def _read(self, id):
        mail, finish = self.mail[id], None
        try:
            yield
            while finish is None:
                if not mail:
                    self._advance()
                while mail and finish is None:
                    event = mail.popleft()
                    finish = event.finish
                    yield event
        finally:  # whoever stops listening loses nothing: the rest goes to `step`
            self.late += self.mail.pop(id)
