"""One rank of a pipeline: it does the actions of its schedule, with real stages and real messages.

Before: `schedules.py` said in which order, `stages.py` what a stage is. New here: what goes from rank to
rank. A stage sends what it has made to the next one and forgets how; on the way back it gets the gradient of
that, and sends the gradient of its own input on. Autograd never sees more than one stage and one micro-batch:

    F   x = what came (or tokens)    y = stage(x)                         send y on
    B   dy = what came               y.backward(dy)                       send x.grad back
    I   the same, but the gradients of weights are put off (`split.py`), until W

What is sent must not make anybody wait (`Posted`): in 1F1B two neighbours send to each other at once. What is
received comes in the order in which it was sent, and every rank knows the schedule of the others, so no
message has to say what it is.

`step` leaves the gradients of the mean loss of the batch, as one process would have. It makes no update.
"""

import time

import torch
import torch.distributed as dist

from common.errors import demand
from common.exercise import exercise
from phase08_parallelism.project23_tensor_parallelism.collectives import Wire
from phase08_parallelism.project23_tensor_parallelism.groups import waiting

from .schedules import event, follower
from .simulator import Slot, stages_of
from .split import split, weight_part
from .stages import Part

# ---- wires -------------------------------------------------------------------------------------------------


class Posted(Wire):
    """Between the ranks of one pipeline: what is sent is on its way when `exchange` returns.

    channels: {(source, target): a group of these two}. Each direction has a channel of its own: on NCCL, two
    ranks that send to each other on one channel would wait for ever. ranks: their global numbers.
    """

    def __init__(self, ranks, channels):
        super().__init__(ranks.index(dist.get_rank()), len(ranks))
        self.ranks, self.channels, self.posted = ranks, channels, []

    def carry(self, out, target, into, source):
        with waiting(self.rank, "the pipeline"):
            if out is not None:
                self.posted = [(work, x) for work, x in self.posted if not work.is_completed()]
                group = self.channels[self.rank, target]
                self.posted.append((dist.isend(out, self.ranks[target], group), out))
            if into is not None:
                dist.irecv(into, self.ranks[source], self.channels[source, self.rank]).wait()

    def finish(self):
        """Wait until all that was sent has been received."""
        with waiting(self.rank, "the pipeline"):
            for work, _ in self.posted:
                work.wait()
        self.posted = []


def posted(lines):
    """This rank's wires. All ranks call this with the ranks of every pipeline, [[rank of stage 0, …], …]."""
    mine = None
    for line in lines:
        n, channels = len(line), {}
        for a, b in [(a, (a + way) % n) for a in range(n) for way in (1, -1)]:
            if a != b and (a, b) not in channels:
                channels[a, b] = dist.new_group([line[a], line[b]])
        if dist.get_rank() in line:
            mine = Posted(line, channels)
    return mine


# ---- a rank ------------------------------------------------------------------------------------------------


class Pipeline:
    """This rank's stages, of p · v in all: rank, rank + p, …

    objective: the last stage's loss, a module as project 3's CausalLM that holds it as its model; on other
    ranks None. `step` and `loss` are called by all ranks, each with the orders of all of them, and with the
    whole batch: the first stage takes its tokens, the last its targets.
    """

    def __init__(self, stages, wire, objective=None):
        self.stages = {stage.number: stage for stage in stages}
        self.wire, self.objective, self.part = wire, objective, Part(stages)
        self.notes = {}  # stage -> the list into which its layers write what W needs
        self.log, self.peak = [], 0  # the slots of the last step; the most micro-batches held at once

    def step(self, batch, orders):
        """Forward and backward of a batch (tokens (B, T), targets (B, T)), added to .grad -> the mean loss
        on the last stage's rank, 0 on others. m micro-batches of B/m rows each; UserError where m does not
        divide B."""
        if any(action.kind == "I" for order in orders for action in order) and not self.notes:
            self.notes = {number: split(stage) for number, stage in self.stages.items()}
        total = self.run(batch, orders)
        self.sum_copies()
        return total

    @torch.no_grad()
    def loss(self, batch, orders):
        """The mean loss alone; orders: `forwards_only`. Log and peak stay those of the last step."""
        log, peak = self.log, self.peak
        total = self.run(batch, orders)
        self.kept.clear()
        self.log, self.peak = log, peak
        return total

    def run(self, batch, orders):
        """All actions of this rank, in their order."""
        own, p, self.count = orders[self.wire.rank], len(orders), stages_of(orders)
        demand(p == self.wire.world, f"orders for {p} ranks, and there are {self.wire.world}")
        self.micros = 1 + max(action.micro for action in own)
        tokens, targets = batch
        demand(len(tokens) % self.micros == 0, f"{len(tokens)} rows cannot be cut into {self.micros} "
               "micro-batches: make the batch a multiple of them")  # fmt: skip
        self.tokens, self.targets = tokens.chunk(self.micros), targets.chunk(self.micros)
        self.mail = {s: iter(addressed(orders[s], s, self.wire.rank, p, self.count)) for s in range(p)}
        self.came, self.kept, self.log, self.peak = {}, {}, [], 0
        self.total = torch.zeros((), device=tokens.device)
        do = {"F": self.forward, "B": self.backward, "I": self.input_part, "W": self.weight_part}
        for action in own:
            given = self.receive(action, p)
            begin = time.time()
            made = do[action.kind](action.stage, action.micro, given)
            self.log.append(Slot(self.wire.rank, action, begin, time.time()))
            self.peak = max(self.peak, len(self.kept))
            self.send(follower(action, self.count), made, p)
        if isinstance(self.wire, Posted):
            self.wire.finish()
        return self.total

    # ---- messages ----

    def send(self, target, x, p):
        """To the rank of the stage that waits for it, which may be this one; target None: nobody waits."""
        if target is None:
            return
        if target.stage in self.stages:
            self.came[target] = x
        else:
            self.wire.exchange(x.contiguous(), target.stage % p)

    def receive(self, action, p):
        """What an action was sent, (B/m, T, C): from the mail of the rank that sends it; None: nothing is."""
        wanted, number = event(action), action.stage
        source = {"F": number - 1, "B": number + 1}.get(wanted.kind, -1)
        if action.kind == "W" or not 0 <= source < self.count:
            return None
        while wanted not in self.came:
            tokens, weight = self.tokens[0], next(self.stages[number].parameters())
            width = self.stages[number].config.d_model
            x = torch.empty(*tokens.shape, width, dtype=weight.dtype, device=tokens.device)
            self.wire.exchange(into=x, source=source % p)
            self.came[next(self.mail[source % p])] = x
        return self.came.pop(wanted)

    # ---- actions: each gets what came, and returns what is to be sent ----

    @exercise
    def forward(self, number, micro, x):
        """x (B/m, T, C), or None at the first stage, which takes its tokens -> y (B/m, T, C), without its
        graph; (x, y) is kept for the way back. At the last stage y is the loss of this micro-batch, as its
        share of the mean over all; it is added to self.total, too."""
        stage = self.stages[number]
        x = self.tokens[micro] if stage.first else x.requires_grad_()
        if stage.last:
            y = self.objective((x, self.targets[micro])) / self.micros
            self.total = self.total + y.detach()
        else:
            y = stage(x)
        self.kept[number, micro] = x, y
        return y.detach()

    @exercise
    def backward(self, number, micro, dy):
        """dy: the gradient of what was sent on, None at the last stage -> that of what came (None at the
        first, whose tokens have none). Nothing of this micro-batch is kept."""
        x, y = self.kept.pop((number, micro))
        torch.autograd.backward(y, dy)
        weight_part(self.notes.get(number, []))
        return x.grad

    @exercise
    def input_part(self, number, micro, dy):
        """As `backward`, but the gradients of weights wait: what they need, a copy of the stage's list in
        self.notes, which is emptied, is kept in place of x and y."""
        x, y = self.kept[number, micro]
        torch.autograd.backward(y, dy)
        self.kept[number, micro] = self.notes[number].copy()
        self.notes[number].clear()
        return x.grad

    def weight_part(self, number, micro, _):
        """The gradients of weights that `input_part` has put off."""
        weight_part(self.kept.pop((number, micro)))

    # ---- after the last action ----

    @exercise
    def sum_copies(self):
        """A tied table lies on the first rank, as embed.weight, and on the last one, as head.weight. Each has
        seen half of what flows back to it: both get the sum. On one rank it is one parameter, and whole."""
        if not self.part.config.tie_embeddings or self.wire.world == 1:
            return
        ends = {0: "embed", self.wire.world - 1: "head"}
        if self.wire.rank in ends:
            other = self.wire.world - 1 - self.wire.rank
            mine = getattr(self.part, ends[self.wire.rank]).weight.grad
            theirs = torch.empty_like(mine)
            self.wire.exchange(mine.clone(), other, theirs, other)
            mine += theirs


def addressed(order, source, target, p, count):
    """The events that one rank sends to another, in the order in which it sends them."""
    sent = [follower(action, count) for action in order]
    return [e for e in sent if e is not None and e.stage % p == target != source]
