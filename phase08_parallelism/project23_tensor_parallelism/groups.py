"""What the layers ask of the other ranks, by one of two ways: the ring of collectives.py, or torch's own.

`Ring(Processes())` and `Library()` are exchangeable; `ALONE` is one rank without others. All of them have
rank, world, and the methods of `Ring`. Whoever waits for a rank that hangs or has died ends, after the
timeout of `init_process_group`, with a UserError that says in which operation.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from common.errors import UserError, demand

from . import collectives
from .collectives import Wire

OPERATIONS = {torch.add: dist.ReduceOp.SUM, torch.maximum: dist.ReduceOp.MAX}


@contextmanager
def waiting(rank: int, what: str) -> Iterator[None]:
    """UserError in place of what torch.distributed raises where another rank does not come."""
    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, dist.DistError) or any(
            word in str(error).lower() for word in ("gloo", "timed out", "timeout", "connection", "nccl")
        )
        if not known:
            raise
        why = str(error).strip().splitlines()[0][:150]
        raise UserError(f"rank {rank} waited in {what} for a rank that never came ({why}): one of the others "
                        "hangs, has died or takes another way through the program") from error  # fmt: skip


class Ring:
    """Collectives over a wire. Each returns a new tensor, and leaves x as it is."""

    def __init__(self, wire: Wire):
        self.wire, self.rank, self.world = wire, wire.rank, wire.world

    def all_reduce(self, x, combine=torch.add):
        """The sum, or the maximum, of all ranks' x."""
        with waiting(self.rank, "all_reduce"):
            return collectives.all_reduce(self.wire, x, combine)

    def all_gather(self, x, dim):
        """All ranks' x, one behind the other along dim; x of one shape on all ranks."""
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.world)]
        parts[self.rank] = x.contiguous()
        with waiting(self.rank, "all_gather"):
            collectives.all_gather(self.wire, parts)
        return torch.cat(parts, dim)

    def reduce_scatter(self, x, dim):
        """This rank's 1/world, along dim, of the sum of all ranks' x."""
        parts = [part.contiguous() for part in cut(x, self.world, dim)]
        with waiting(self.rank, "reduce_scatter"):
            return collectives.reduce_scatter(self.wire, parts)

    def start(self, x):
        """Begin the sum of all ranks' x; a function that waits for it and returns it. The ring does not wait
        for that call: it is done when this returns."""
        total = self.all_reduce(x)
        return lambda: total


class Library:
    """The same by torch.distributed, over one of its groups; None: all ranks."""

    def __init__(self, group=None):
        self.group, self.rank, self.world = group, dist.get_rank(group), dist.get_world_size(group)

    def all_reduce(self, x, combine=torch.add):
        total = x.clone(memory_format=torch.contiguous_format)
        with waiting(self.rank, "all_reduce"):
            dist.all_reduce(total, OPERATIONS[combine], self.group)
        return total

    def all_gather(self, x, dim):
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.world)]
        with waiting(self.rank, "all_gather"):
            dist.all_gather(parts, x.contiguous(), self.group)
        return torch.cat(parts, dim)

    def reduce_scatter(self, x, dim):
        parts = [part.contiguous() for part in cut(x, self.world, dim)]
        own = torch.empty_like(parts[0])
        with waiting(self.rank, "reduce_scatter"):
            dist.reduce_scatter(own, parts, group=self.group)
        return own

    def start(self, x):
        """Begin the sum; the network works while the caller goes on computing."""
        total = x.clone(memory_format=torch.contiguous_format)
        with waiting(self.rank, "all_reduce"):
            work = dist.all_reduce(total, group=self.group, async_op=True)

        def wait():
            with waiting(self.rank, "all_reduce"):
                work.wait()
            return total

        return wait


ALONE = Ring(Wire())


def cut(x, world, dim):
    """x in `world` equal parts along dim. UserError where it cannot be."""
    demand(x.size(dim) % world == 0, f"{x.size(dim)} rows of dimension {dim} cannot be shared out over "
           f"{world} ranks: give a multiple, as --context {-(-x.size(dim) // world) * world}")  # fmt: skip
    return x.chunk(world, dim)
