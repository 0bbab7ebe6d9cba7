"""Virtual ranks: threads of one process, whose wires are queues. For tests, pictures and reading along.

A rank is then a thread with its own part of the model; autograd runs the backward pass of a thread in that
thread. One computes at a time, until it waits for a message. No process is started, and no message can
overtake another on a slow machine. Random numbers are drawn from one generator by all threads, so dropout is
for real processes.
"""

import queue
import threading

import torch

from .collectives import Wire

PATIENCE = 20.0  # seconds that a rank waits for a message


class Broken(Exception):
    """Another rank has failed, or sends nothing more: this one would wait for ever."""


class ThreadWire(Wire):
    """Between the threads that `ranks` has started. mail: {(source, target): queue}."""

    def __init__(self, rank, world, mail, turn):
        super().__init__(rank, world)
        self.mail, self.turn = mail, turn

    def carry(self, out, target, into, source):
        if out is not None:
            if not out.is_contiguous():
                raise ValueError("a tensor that is sent must be contiguous")
            self.mail[self.rank, target].put(out.detach().clone())
        if into is not None:
            came = self.receive(self.mail[source, self.rank], source)
            if came.shape != into.shape:
                raise ValueError(f"rank {self.rank} expected {tuple(into.shape)}, got {tuple(came.shape)}")
            with torch.no_grad():
                into.copy_(came)

    def receive(self, box, source):
        """The next message; while there is none, another rank may compute."""
        if box.empty():
            self.turn.release()
            try:
                came = box.get(timeout=PATIENCE)
            except queue.Empty:
                came = None
            finally:
                self.turn.acquire()
        else:
            came = box.get()
        if came is None:
            raise Broken(f"rank {self.rank} waits for rank {source}, and nothing will come")
        return came


def ranks(world, work, *args):
    """[work(wire, *args) of each rank], side by side; the first exception of any of them is raised.

    AssertionError where a message is left over that nobody has received.
    """
    mail = {(a, b): queue.SimpleQueue() for a in range(world) for b in range(world)}
    turn, results, errors = threading.Lock(), [None] * world, []

    def run(rank):
        with turn:
            try:
                results[rank] = work(ThreadWire(rank, world, mail, turn), *args)
            except BaseException as error:
                errors.append(error)
                for box in mail.values():
                    box.put(None)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, Broken)), errors[0])
    left = [pair for pair, box in mail.items() if not box.empty()]
    assert not left, f"messages that nobody received: {left}"
    return results
