"""Static and dynamic batching, which continuous batching replaces; and what each costs, counted in steps.

The naive versions. *Static*: wait until B requests are there, pad them, run until the longest ends.
*Dynamic*: wait for B, but no longer than `max_wait`. In both the short answers wait
for the long ones, and whoever comes a moment late waits for all of them.
"""

from collections import deque

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for, decode_ragged, greedy


def run_batch(model, prompts, lengths, choose=greedy):
    """One static batch: the first lengths[b] tokens after prompts[b], of as many as the longest asks for."""
    demand(prompts and len(prompts) == len(lengths), "a batch has prompts, and a length for each")
    n, T = max(lengths), max(map(len, prompts))
    caches = caches_for(model, StaticCache, len(prompts), T + n)
    ids = decode_ragged(model, prompts, n, caches, choose)  # (B, n): short rows run on, for nothing
    return [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]


def static(model, prompts, lengths, B):
    """All prompts in batches of B, in order of arrival, greedy: a list of lists of ids."""
    answers = []
    for i in range(0, len(prompts), B):
        answers += run_batch(model, prompts[i : i + B], lengths[i : i + B])
    return answers


def batches(arrivals, B, max_wait, seconds):
    """When each request of a server that forms batches is begun and done: [(start, end)], by arrival.

    arrivals: times, ascending. A batch starts when the one before has ended and B requests are there, or the
    oldest has waited `max_wait`; infinite: static batching, whose last batch starts when nobody comes any
    more. seconds(indices): how long a batch takes.
    """
    free, i, times = 0.0, 0, []
    while i < len(arrivals):
        full = arrivals[min(i + B, len(arrivals)) - 1]
        start = max(free, arrivals[i], min(full, arrivals[i] + max_wait))
        members = [j for j in range(i, min(i + B, len(arrivals))) if arrivals[j] <= start]
        free = start + seconds(members)
        times += [(start, free)] * len(members)
        i += len(members)
    return times


# ---- the arithmetic: no model, only lengths ----


def static_steps(lengths, B):
    """Forwards that static batches of B need: each as many as its longest answer."""
    return sum(max(lengths[i : i + B]) for i in range(0, len(lengths), B))


@exercise
def continuous_steps(lengths, B):
    """Forwards that continuous batching over B slots needs: a request takes a free slot at once, in order.

    Each running request gets a token a step; one with n tokens holds its slot for n steps.
    """
    waiting, running, steps = deque(lengths), [], 0
    while waiting or running:
        while waiting and len(running) < B:
            running.append(waiting.popleft())
        steps += 1
        running = [left - 1 for left in running if left > 1]
    return steps


def bound(lengths, B):
    """How many times as many steps static batches need: what continuous batching can gain at most."""
    return static_steps(lengths, B) / continuous_steps(lengths, B)
