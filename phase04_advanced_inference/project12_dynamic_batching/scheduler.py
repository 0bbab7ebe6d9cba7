"""What to run in this step: pairs of (sequence, n tokens), and nothing else. Policy, without a tensor.

Came before: a batch is formed, runs until its longest text ends, and only then the next is formed. New here:
that is decided anew before every forward (Orca's iteration-level scheduling). Prompts are read in chunks
beside the texts that are being written (Sarathi's chunked prefill); memory is given out as texts grow, and
taken back from the least urgent when it is short (vLLM's recompute preemption); tenants take turns by tokens
received (the virtual token counter).

The store is only asked for room: `can_admit`, `open`, `reserve`, `close`. See `slots.Store`.
Yu et al. 2022, "Orca", OSDI; Agrawal et al. 2024, 2403.02310 (Sarathi-Serve); Kwon et al. 2023, 2309.06180
(vLLM); Sheng et al. 2024, 2401.00588 (fair share); Liu & Layland 1973 (earliest deadline first).
"""

import math
from collections import defaultdict

from common.errors import demand
from common.exercise import exercise

from .heap import IndexedHeap

PATIENCE = 60.0  # seconds after which a request without a deadline is due: nobody waits for ever
ADVANCE = 10.0  # by so many seconds earlier is it due for each point of priority


def due_at(now, priority=0, deadline=None):
    """The time at which a request's turn is due. All have one, so that everybody's turn comes.

    priority: a point more counts as having come ADVANCE seconds earlier. deadline: seconds from now.
    UserError where one is no finite number.
    """
    demand(math.isfinite(priority), f"priority must be a finite number, not {priority}")
    demand(deadline is None or math.isfinite(deadline), f"deadline must be a finite number, not {deadline}")
    return now + (PATIENCE if deadline is None else min(deadline, PATIENCE)) - ADVANCE * priority


class Waiting:
    """Those who wait: per tenant a heap by urgency. The next is the one of the tenant that had the least."""

    def __init__(self):
        self.queues, self.served = defaultdict(IndexedHeap), defaultdict(float)
        self.sequences = {}

    def __len__(self):
        return len(self.sequences)

    def tenants(self):
        """The tenants of whom somebody waits."""
        return [tenant for tenant, queue in self.queues.items() if queue]

    def push(self, sequence, active=()):
        """active: tenants who are being served. Who was away gets no credit for it: it begins level."""
        tenant, here = sequence.tenant, {*self.tenants(), *active}
        if tenant not in here:
            level = min((self.served[other] for other in here), default=math.inf)
            owing = {other: n for other, n in self.served.items() if n > level or other in here}
            self.served = defaultdict(float, owing)  # the others begin level too, should they come back
            self.served[tenant] = owing.get(tenant, 0.0 if level == math.inf else level)
        self.sequences[sequence.id] = sequence
        self.queues[tenant].push(sequence.id, sequence.urgency)

    @exercise
    def peek(self):
        """The next sequence, or None: of the tenant that was served the fewest tokens, the most urgent."""
        tenants = self.tenants()
        if not tenants:
            return None
        poorest = min(tenants, key=lambda tenant: self.served[tenant])
        return self.sequences[self.queues[poorest].peek()]

    def remove(self, sequence):
        """Take a sequence out, from anywhere: whether it was in."""
        found = self.queues[sequence.tenant].remove(sequence.id)
        if not self.queues[sequence.tenant]:
            del self.queues[sequence.tenant]
        self.sequences.pop(sequence.id, None)
        return found


class Scheduler:
    """max_batch: how many sequences run at a time. max_step_tokens: how many tokens one step feeds at most.

    Each of the running gets a token a step, so max_step_tokens may not be below max_batch.
    """

    def __init__(self, store, *, max_batch, max_step_tokens):
        demand(max_batch >= 1, f"max_batch must be at least 1, not {max_batch}")
        demand(max_step_tokens >= max_batch, f"max_step_tokens {max_step_tokens} is below max_batch "
               f"{max_batch}: every running text needs a token a step")  # fmt: skip
        self.store, self.max_batch, self.max_step_tokens = store, max_batch, max_step_tokens
        self.waiting, self.running = Waiting(), {}
        self.preemptions = 0

    def add(self, sequence):
        """Queue a sequence, new or preempted."""
        self.waiting.push(sequence, {one.tenant for one in self.running.values()})

    def fork(self, source, sequence):
        """`sequence` runs at once on a copy of what `source` holds: True; False where it has to queue."""
        room = source.id in self.running and not self.waiting and len(self.running) < self.max_batch
        if not (room and self.store.can_admit(len(sequence.ids) + 1)):
            return False
        self.store.fork(source.id, sequence.id)
        sequence.computed = source.computed
        self.running[sequence.id] = sequence
        return True

    def finish(self, sequence):
        """A sequence leaves, running or waiting: its room is free at once. Whether it was here."""
        if self.running.pop(sequence.id, None) is not None:
            self.store.close(sequence.id)
            return True
        return self.waiting.remove(sequence)

    def preempt(self, sequence):
        """Take a running sequence's room; it waits, and will be read again from its first token."""
        del self.running[sequence.id]
        self.store.close(sequence.id)
        sequence.restart()
        self.preemptions += 1
        self.add(sequence)

    @exercise
    def make_room(self, sequence, n, planned):
        """Room for n more tokens of a running sequence: True, or False where it has to sit this step out.

        While the store has none, the least urgent of the others is preempted; never one of `planned`, ids
        that already have a place in this step. Where only those are left, False.
        """
        while not self.store.reserve(sequence.id, sequence.computed + n):
            others = [one for one in self.running.values() if one is not sequence and one.id not in planned]
            if not others:
                return False
            self.preempt(max(others, key=lambda one: one.urgency))
        return True

    def admit(self):
        """The next of those who wait, running from now on; None where nobody waits or there is no room.

        Nobody overtakes who is next, or whoever needs much room would never get it.
        """
        sequence = self.waiting.peek()
        if sequence is None or len(self.running) >= self.max_batch:
            return None
        if not self.store.can_admit(len(sequence.ids) + 1):
            return None
        self.waiting.remove(sequence)
        self.running[sequence.id] = sequence
        sequence.computed = self.store.open(sequence.id, sequence.ids)  # what a prefix index knew
        return sequence

    @exercise
    def plan(self):
        """[(sequence, n)]: each with how many tokens to feed, max_step_tokens in all at most.

        First the running: those that write (`pending` without guesses is 1) before those that still read, the
        urgent first, so that nobody's text stops because somebody's prompt is long. Each gets its pending
        tokens, or a chunk of them: as many as are left over, but one for each that comes after it and writes.
        Then those who wait are admitted as long as tokens are left, unless somebody was preempted just now.
        What a tenant is fed is counted in `waiting.served`.
        """
        work, left, preemptions = [], self.max_step_tokens, self.preemptions
        order = sorted(self.running.values(), key=lambda one: (is_reading(one), one.urgency))
        writers = sum(not is_reading(one) for one in order)
        for sequence in order:
            writers -= not is_reading(sequence)
            n = min(sequence.pending, left - writers)
            planned = {one.id for one, _ in work}
            if sequence.id in self.running and n > 0 and self.make_room(sequence, n, planned):
                work.append((sequence, n))
                left -= n
        while left and self.preemptions == preemptions and (sequence := self.admit()):
            n = min(sequence.pending, left)
            if not self.make_room(sequence, n, {one.id for one in self.running.values()}):
                self.preempt(sequence)  # the store promised more than it had
                break
            work.append((sequence, n))
            left -= n
        for sequence, n in work:
            sequence.trim(n)
            self.waiting.served[sequence.tenant] += n
        return work


def is_reading(sequence):
    """Does it still read its prompt, or again what it lost? Else it writes: one token, and guesses."""
    return sequence.pending - len(sequence.guesses) > 1
