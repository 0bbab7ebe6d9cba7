"""Collectives, made of nothing but send and receive: reduce-scatter, all-gather, all-reduce, broadcast.

Before: DDP and FSDP2 in project 3 called `all_reduce` and `all_gather`, and somebody else had written them.
New here: a rank that can only send to one neighbour and receive from another, and a ring of them that adds up
N tensors with no rank in the middle. Each passes on a part while it receives the next one:

    reduce-scatter   in step s rank r sends part r - 1 - s on and adds what comes to part r - 2 - s
    all-gather       in step s rank r sends part r - s on and keeps what comes as part r - 1 - s

After N - 1 steps of the first rank r holds the sum of part r; after N - 1 of the second, all parts. So each
rank sends 2 (N - 1)/N of the tensor, however many ranks there are, and none sends more than another. A rank
in the middle would send N - 1 times the tensor.

A `Wire` is one rank's sends and receives; here over torch.distributed (gloo or NCCL, started by torchrun).
`groups.py` gives the layers what is here, or what torch.distributed has, under the same names.
Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
"""

import time
from typing import NamedTuple

import torch
import torch.distributed as dist

from common.errors import UserError
from common.exercise import exercise

# ---- one rank's end of the wires ---------------------------------------------------------------------------


class Message(NamedTuple):
    """What one rank sent: to whom, how many bytes, and from when to when, in seconds of time.time()."""

    source: int
    target: int
    nbytes: int
    begin: float
    end: float


class Wire:
    """The sends and receives of rank `rank` of `world`. It counts the bytes that it sends, in `sent`.

    Where `log` is a list, each message is put there too. This one leads nowhere: it is that of a rank which
    is alone.
    """

    def __init__(self, rank: int = 0, world: int = 1):
        self.rank, self.world, self.sent = rank, world, 0
        self.log: list[Message] | None = None

    def exchange(self, out=None, target=None, into=None, source=None):
        """Send `out` to rank `target` and receive `into` from rank `source`, both at once; either may be
        None. An empty tensor is not sent, and nothing is waited for where one is expected."""
        out, into = (x if x is not None and x.numel() else None for x in (out, into))
        begin = time.time()
        if out is not None or into is not None:
            self.carry(out, target, into, source)
        if out is not None:
            self.sent += out.nbytes
            if self.log is not None:
                self.log.append(Message(self.rank, target, out.nbytes, begin, time.time()))

    def carry(self, out, target, into, source):
        """Where the wires lead; both tensors contiguous."""
        raise UserError("one rank alone has nobody to send to: start several with torchrun")


class Processes(Wire):
    """Between the processes of a torch.distributed group; None: all of them."""

    def __init__(self, group=None):
        super().__init__(dist.get_rank(group), dist.get_world_size(group))
        self.group = group

    def carry(self, out, target, into, source):
        operations = [] if out is None else [dist.P2POp(dist.isend, out, None, self.group, 0, target)]
        if into is not None:
            operations.append(dist.P2POp(dist.irecv, into, None, self.group, 0, source))
        for work in dist.batch_isend_irecv(operations):
            work.wait()


# ---- the naive way -----------------------------------------------------------------------------------------


def star_all_reduce(wire, x):
    """The sum of all ranks' x, on every rank: all send to rank 0, it adds and sends the sum back to each."""
    total, others = x.clone(), range(1, wire.world)
    if wire.rank > 0:
        wire.exchange(x, 0)
        wire.exchange(into=total, source=0)
        return total
    for rank in others:
        received = torch.empty_like(x)
        wire.exchange(into=received, source=rank)
        total += received
    for rank in others:
        wire.exchange(total, rank)
    return total


# ---- the ring ----------------------------------------------------------------------------------------------


def neighbours(wire):
    """(the rank to the right, to which one sends; the rank to the left, from which one receives)"""
    return (wire.rank + 1) % wire.world, (wire.rank - 1) % wire.world


@exercise
def reduce_scatter(wire, parts, combine=torch.add):
    """Rank r's part r, combined over all ranks. parts: `world` contiguous tensors, of the same shapes on all
    ranks.

    N - 1 exchanges, in each of which one part goes right and one comes from the left. `parts`, the list, is
    used on the way: entries are replaced, their tensors stay as they are.
    """
    right, left = neighbours(wire)
    for step in range(wire.world - 1):
        gone, here = (wire.rank - 1 - step) % wire.world, (wire.rank - 2 - step) % wire.world
        received = torch.empty_like(parts[here])
        wire.exchange(parts[gone], right, received, left)
        parts[here] = combine(parts[here], received)
    return parts[wire.rank]


@exercise
def all_gather(wire, parts):
    """Fill `parts`, of which rank r knows part r, on all ranks, in place; `world` contiguous tensors.

    N - 1 exchanges: first the own part goes right, then in each step the part that came in the step before.
    """
    right, left = neighbours(wire)
    for step in range(wire.world - 1):
        gone, here = (wire.rank - step) % wire.world, (wire.rank - 1 - step) % wire.world
        wire.exchange(parts[gone], right, parts[here], left)


def all_reduce(wire, x, combine=torch.add):
    """The sum (or what `combine` does) of all ranks' x, of any shape, on all ranks: to the last bit the same.

    One after the other: N parts, as equal as may be, are added up; then everybody is told.
    """
    parts = list(x.flatten().clone().tensor_split(wire.world))
    parts[wire.rank] = reduce_scatter(wire, parts, combine)
    all_gather(wire, parts)
    return torch.cat(parts).view_as(x)


@exercise
def broadcast(wire, x, source=0, piece=65_536):
    """Rank source's x on all ranks, in place; x contiguous.

    Along the ring, in pieces of at most `piece` elements: a rank passes on the piece before while it receives
    the next one, so that the last rank has everything soon after the second. The source sends x once, not
    N - 1 times; the rank left of the source sends nothing.
    """
    right, left = neighbours(wire)
    place, pieces = (wire.rank - source) % wire.world, x.view(-1).split(piece)
    first, last = place == 0, place == wire.world - 1
    for i in range(len(pieces) + 1):
        gone = pieces[i - 1] if i > 0 and not last else None
        here = pieces[i] if i < len(pieces) and not first else None
        wire.exchange(gone, right, here, left)


def bytes_sent(n: int, world: int, rank: int = 0, itemsize: int = 4) -> int:
    """What rank `rank` sends in `all_reduce` of n elements: 2 (N - 1)/N of them, exactly where N divides n.

    All but one part in each half; which, is what the steps above say: the parts r and r + 1.
    """
    sizes = [n // world + (part < n % world) for part in range(world)]
    left_out = sizes[rank] + sizes[(rank + 1) % world] if world > 1 else 2 * n
    return itemsize * (2 * n - left_out)
