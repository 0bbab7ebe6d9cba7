"""This process as rank 0, and followers that do what it asks: for measurements and pictures of real ranks.

    with Crew(2, setup, *arguments) as crew:      setup(rank, world, *arguments) -> {name: function}, on each
        crew("update")                            every rank calls its function of that name; ours is returned

Not for training, which torchrun starts: a follower that dies is not started again.
"""

import tempfile
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist

from common.errors import demand

PATIENCE = timedelta(seconds=300)


def join(rank, world, store):
    """Become a rank; one thread each."""
    torch.set_num_threads(1)
    meeting = dist.FileStore(store, world)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=world, timeout=PATIENCE)


def follow(rank, world, store, setup, arguments):
    """A follower's life: set up, then do what is asked until a negative number comes."""
    join(rank, world, store)
    tasks, order = list(setup(rank, world, *arguments).values()), torch.zeros(1, dtype=torch.long)
    while True:
        dist.broadcast(order, 0)
        if order < 0:
            break
        tasks[order]()
    dist.destroy_process_group()


class Crew:
    """`world` ranks, of which this process is the first, for as long as it is entered."""

    def __init__(self, world, setup, *arguments):
        self.world, self.setup, self.arguments = world, setup, arguments

    def __enter__(self):
        demand(not dist.is_initialized(), "this process is a rank already: start it without torchrun")
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        store, self.threads = str(Path(self.folder.name) / "store"), torch.get_num_threads()
        self.followers = [
            get_context("spawn").Process(
                target=follow, args=(rank, self.world, store, self.setup, self.arguments), daemon=True)
            for rank in range(1, self.world)]  # fmt: skip
        for follower in self.followers:
            follower.start()
        join(0, self.world, store)
        self.tasks = self.setup(0, self.world, *self.arguments)
        return self

    def __call__(self, name):
        """Every rank does it; what it returns here."""
        dist.broadcast(torch.tensor([list(self.tasks).index(name)]), 0)
        return self.tasks[name]()

    def __exit__(self, kind, *_):
        if kind is None:
            dist.broadcast(torch.tensor([-1]), 0)
        for follower in self.followers:
            follower.join(10) if kind is None else follower.kill()
        dist.destroy_process_group()
        torch.set_num_threads(self.threads)
        self.folder.cleanup()
