"""Several gloo processes on one machine, for tests of what runs in parallel."""

import tempfile
import time
import traceback
from datetime import timedelta
from multiprocessing import connection, get_context
from pathlib import Path

import torch
import torch.distributed as dist

STARTUP = 120  # seconds that a rank may take to import torch and meet the others on a busy machine


def spawn(fn, world, *args, timeout=60.0):
    """Run fn(rank, world, *args) in `world` new processes of one gloo group; return the results by rank.

    fn is one that the children can import. AssertionError: with the traceback, where a rank raises; with the
    exit code, where one dies; with the ranks that still run `timeout` seconds after all have met.
    """
    context = get_context("spawn")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ranks = {}
        try:
            for rank in range(world):
                ours, theirs = context.Pipe()
                task = (theirs, fn, rank, world, str(Path(folder) / "store"), timeout, args)
                process = context.Process(target=run_rank, args=task, daemon=True)
                process.start()
                theirs.close()
                ranks[ours] = rank, process
            collect(ranks, STARTUP)
            return collect(ranks, timeout)
        finally:
            for _, process in ranks.values():
                process.kill()
                process.join()


def collect(ranks, timeout):
    """One message of every rank, in their order."""
    waiting, results, end = dict(ranks), {}, time.monotonic() + timeout
    while waiting:
        ready = connection.wait(list(waiting), max(0.0, end - time.monotonic()))
        late = sorted(rank for rank, _ in waiting.values())
        assert ready, f"still running after {timeout:g} s: rank {', '.join(map(str, late))} of {len(ranks)}"
        for pipe in ready:
            rank, process = waiting.pop(pipe)
            results[rank] = receive(pipe, rank, process)
    return [results[rank] for rank in sorted(results)]


def receive(pipe, rank, process):
    try:
        failure, result = pipe.recv()
    except EOFError:
        process.join(5)
        raise AssertionError(f"rank {rank} died with exit code {process.exitcode}") from None
    assert failure is None, f"rank {rank} failed:\n{failure}"
    return result


def run_rank(pipe, fn, rank, world, store, timeout, args):
    """What runs in the child: meet, say so, run, send the result or the traceback."""
    torch.set_num_threads(1)
    patience = timedelta(seconds=timeout + STARTUP)
    try:
        meeting = dist.FileStore(store, world)
        dist.init_process_group("gloo", store=meeting, rank=rank, world_size=world, timeout=patience)
        dist.barrier()
        pipe.send((None, None))
        message = None, fn(rank, world, *args)
    except BaseException:  # also SystemExit: whatever it was, the parent reports it
        message = traceback.format_exc(), None
    pipe.send(message)
    pipe.poll(None)  # a tensor lies in this process's memory until the parent, which ends it, has taken it
