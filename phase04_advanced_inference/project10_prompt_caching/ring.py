"""A ring of servers: who asks with the same beginning lands where that beginning is held.

Came before: one server and its prefix index. Many servers that take turns send the next turn of a chat to one
that has never seen it, and each holds a little of everything. New here: the *key* of a request, its beginning
or its chat, says who serves it. Keys and servers are hashed onto a circle, a key goes to the first server
clockwise: when one comes or goes, only its own keys move, 1 in N, where `hash % N` would move nearly all.

A beginning that everybody has would drown its server. *Bounded load*: nobody takes more than `slack` times
the mean; what is too much goes on to the next on the circle, always to the same one.

Seam: none; it stands before the engines. Karger et al. 1997, "Consistent Hashing and Random Trees" (STOC);
Mirrokni, Thorup and Zadimoghaddam 2016, 1608.01350 (bounded loads).
"""

import hashlib
import math
from bisect import bisect, insort

from common.errors import demand
from common.exercise import exercise


def place(key):
    """Where a key stands on the circle of 2 ** 64 places: by its repr, so the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


class Ring:
    """Servers (any names), each at `copies` places of the circle, so that its share is near 1 / N.

    slack: how many times the mean a server may have in hand; 1 is perfectly even, inf a plain ring.
    """

    def __init__(self, servers=(), copies=64, slack=1.25):
        demand(copies >= 1, f"{copies} copies: a server stands at 1 place or more")
        demand(slack >= 1, f"a slack of {slack}: under 1 not even the mean would be served")
        self.copies, self.slack = copies, slack
        self.places, self.owner, self.loads = [], {}, {}  # loads: requests in hand, by server
        for server in servers:
            self.add(server)

    def add(self, server):
        """A server comes: it takes over what lies before its places, about 1 in N keys."""
        demand(server not in self.loads, f"server {server!r} is on the ring already")
        self.loads[server] = 0
        for copy in range(self.copies):
            at = place((server, copy))
            insort(self.places, at)
            self.owner[at] = server

    def remove(self, server):
        """A server goes: its keys fall to the next on the circle, all others stay where they are."""
        demand(server in self.loads, f"no server {server!r} is on the ring")
        del self.loads[server]
        self.places = [at for at in self.places if self.owner[at] != server]
        self.owner = {at: self.owner[at] for at in self.places}

    def walk(self, key):
        """The servers as they are met clockwise from a key's place, round the whole circle, each once."""
        start, met = bisect(self.places, place(key)), {}
        for at in self.places[start:] + self.places[:start]:
            met.setdefault(self.owner[at])  # a dict keeps the order of what came first
        return list(met)

    def most(self):
        """How many a server may have in hand, one more request counted: slack times the mean, rounded up."""
        return math.inf if math.isinf(self.slack) else math.ceil(
            self.slack * (sum(self.loads.values()) + 1) / len(self.loads))  # fmt: skip

    @exercise
    def take(self, key):
        """The server of a request: the first clockwise that has fewer than `most()` in hand. It is counted.

        There always is one: were all full, they had more in hand than there are requests. UserError on an
        empty ring.
        """
        demand(self.loads, "no server is on the ring: add one first")
        most = self.most()
        server = next(server for server in self.walk(key) if self.loads[server] < most)
        self.loads[server] += 1
        return server

    def done(self, server):
        """A request of a server is answered. One that has left the ring has nothing to count."""
        demand(self.loads.get(server, 1) > 0, f"server {server!r} has nothing in hand")
        if server in self.loads:
            self.loads[server] -= 1
