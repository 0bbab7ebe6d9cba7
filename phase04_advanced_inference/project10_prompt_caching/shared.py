"""A lock that cannot be forgotten: one cache or index for several threads.

Came before: objects of one thread. Two threads in one index break it: both look for a block, both find none,
both hang theirs in, and one of the two is counted and can never be reached. A lock inside every method would
not help whoever calls two of them: between `match` and `hold`, another thread may evict what was matched.
New here: the object is handed out only under its lock, for as long as the caller's thought takes.

    index = Shared(PrefixIndex(16))
    with index as held:
        n, blocks = held.match(ids)
        held.hold(ids[:n])                  # one thought: nobody comes in between

Keep the model's forward out of it: hold, leave, compute, come back, insert, release. The engine of project 12
needs none of this: it has one owner thread, and others send it messages.
"""

import threading
import time


class Shared:
    """`with shared as it:` is the only way to the object, for one thread at a time.

    entries: how often somebody came in; queued: how often they had to wait for it; waited: seconds, together.
    """

    def __init__(self, it):
        self._it, self._lock = it, threading.Lock()
        self.entries, self.queued, self.waited = 0, 0, 0.0

    def __enter__(self):
        began = time.perf_counter()
        free = self._lock.acquire(blocking=False)
        if not free:
            self._lock.acquire()
        self.entries += 1  # counted inside, where only one is
        self.queued += not free
        self.waited += 0.0 if free else time.perf_counter() - began
        return self._it

    def __exit__(self, *error):
        self._lock.release()
