"""Decoding with the keys split among workers: flash-decoding. It saves time; what saves memory is chunking.

Came before: attention is shared out by rows, heads and tiles of queries, and while text is written there is
one query. One row with K key heads is K pieces of work: a machine with more workers than that waits, and the
keys, all S of them, are read by a few. New here: the keys themselves are dealt out. Each worker answers for
its share (`part`), as if there were no other keys; what is left to do at the end is a softmax over as many
numbers as there are workers (`merge`). All of this machine's threads read memory at once, or all of a GPU's
cores (`triton_kernel.py`), however few rows and heads there are.

No key is copied: a share is a view of the cache, and the G query heads of a group read it together.

Seam: `attend`. Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference" (an article, not
a paper); the choice of the number of shares as in their code, by counting waves."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache as once
from functools import partial
from threading import Barrier

import torch

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project09_flash_attention.tiled import reach_of

from . import chunked
from .parts import group, look_at, merge, part, spans, ungroup

BLOCK = 512  # keys below which a share is not worth a worker
FEW = 16  # queries of a row; more, a prompt say, are work enough without a split


@exercise
def how_many(rows, blocks, workers):
    """Into how many shares to cut `rows` pieces of work (rows of a batch times key heads) of `blocks` blocks.

    Cut into n, there are rows * n pieces, each of ceil(blocks / n) blocks; `workers` of them are done at a
    time, a wave, and every wave takes as long as one piece. The least n, from 1 to min(blocks, workers), at
    which all waves together are at most 5 % longer than at the best of those n; 1 where there are no blocks.
    Splitting further would gain little, and every share more is one more to merge.
    """
    tries = range(1, max(1, min(blocks, workers)) + 1)
    time = {n: math.ceil(rows * n / workers) * math.ceil(blocks / n) for n in tries}
    return next(n for n in tries if time[n] <= 1.05 * min(time.values()))


@once
def pool(threads):
    """So many workers, each of which computes with one thread; made once."""
    before, together = torch.get_num_threads(), Barrier(threads)

    def start():
        torch.set_num_threads(1)  # for this worker, and for threads that begin later: hence `before`
        together.wait()

    workers = ThreadPoolExecutor(threads, "share", start)
    list(workers.map(lambda _: None, range(threads)))
    torch.set_num_threads(before)
    return workers


def workers_of(device):
    """As many workers as torch has threads; one elsewhere than on a CPU, where a thread only gives orders."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_parallel(calls, threads):
    """What the calls return, in their order. More than one thread: without gradients."""
    if threads == 1 or len(calls) == 1:
        return [call() for call in calls]
    return list(pool(threads).map(torch.no_grad()(lambda call: call()), calls))


@exercise
def split(q, k, v, reach, mask=None, *, splits=None, threads=None):
    """Exact attention of few queries to many keys: q (B, H, T, D), k and v (B, K, S, D) -> as q, in its type.

    reach (B or 1, T): query t sees keys 0 .. reach[t] - 1; a mask (broadcasts to (B, H, T, S), True = look)
    replaces it. splits: shares of the keys, no more than there are keys; None: `how_many`. threads: workers;
    None: `workers_of`. Computed in float32 at least, 16-bit keys converted share by share.

    The keys that are needed (all S under a mask, else those up to the furthest reach) are cut into shares of
    equal size, the last perhaps smaller: `spans`. A `part` of each, `in_parallel`; then one merge.
    UserError where splits or threads is less than 1, or H is no multiple of K.
    """
    demand(all(n is None or n >= 1 for n in (splits, threads)), "splits and threads must be at least 1")
    (B, H, T, _), (K, S), threads = q.shape, k.shape[1:3], threads or workers_of(q.device)
    rows, needed, calls = group(q, k).flatten(2, 3), S if mask is not None else int(reach.max()), []
    splits = splits or how_many(1, needed // BLOCK, threads)  # a worker takes all rows and heads of its share
    if mask is not None:
        mask = mask.expand(B, H, T, S).unflatten(1, (K, H // K))  # (B, K, G, T, S), a view
    with torch.autocast(q.device.type, enabled=False):  # it would make the parts 16-bit again
        for start, stop, whole in spans(max(1, math.ceil(needed / splits)), S, reach, mask):
            look = None if whole else look_at(start, stop, reach, mask, H // K)
            calls.append(partial(part, rows, k[:, :, start:stop], v[:, :, start:stop], look))
        found = in_parallel(calls, threads)
        ys, lses = map(torch.stack, zip(*found, strict=True))  # (splits, B, K, G * T, D or 1)
        return ungroup(merge(ys, lses)[0].unflatten(2, (H // K, T)), q)


def suits(q, k, v):
    """Whether there is anything to gain from a split: few queries, and no gradients wanted."""
    trained = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return not trained and 0 < q.size(2) <= FEW


def attend(q, k, v, *, positions, cache=None, mask=None, splits=None, threads=None):
    """For the seam. A prompt, or a batch to learn from, goes through in chunks."""
    if cache is not None:
        k, v = cache.update(k, v, positions)  # (B, K, S, D)
    reach = reach_of(positions, cache)
    if suits(q, k, v):
        return split(q, k, v, reach, mask, splits=splits, threads=threads)
    return chunked.chunked(q, k, v, reach, mask)
