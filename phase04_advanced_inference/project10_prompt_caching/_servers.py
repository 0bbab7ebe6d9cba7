"""Many servers, each with a prefix index of its own: what a request's way decides, replayed."""

from collections import deque
from statistics import fmean

from ._trace import chats
from .prefix_cache import PrefixIndex
from .ring import Ring

WAYS = ("in turn", "by chat", "by beginning")


class Server:
    """One prefix index under a budget, and what it was asked."""

    def __init__(self, budget, block):
        self.index, self.budget, self.tokens, self.hits = PrefixIndex(block), budget, 0, 0

    def read(self, ids):
        """Serve a prompt: count what was held of it, hold the rest."""
        index, end = self.index, len(ids) // self.index.block * self.index.block
        n, handles = index.match(ids)
        self.tokens, self.hits = self.tokens + len(ids), self.hits + n
        if end <= self.budget:
            index.hold(ids[:n])
            index.evict(index.tokens + end - n - self.budget)
            index.release(ids[:n])
            index.insert(ids[:end], handles + [None] * ((end - n) // index.block))


def key_of(way, chat, ids, block):
    """What the ring is asked for."""
    return chat if way == "by chat" else tuple(ids[:block])


def replay(said, n, way, *, budget, block=16, slack=1.25, flight=4):
    """Serve turns [(chat, prompt)] with n servers, `flight` x n of them in hand at any time.

    {"hit rate": of all tokens, "held": tokens in all indices, "copies": held over distinct, "busiest": the
    most tokens that one server had to compute, over the mean, "in hand": the most requests on one, likewise}
    """
    servers, ring, going = [Server(budget, block) for _ in range(n)], Ring(range(n), slack=slack), deque()
    most = 0
    for i, (chat, ids) in enumerate(said):
        if len(going) >= flight * n:
            ring.done(going.popleft())
        if way == "in turn":
            server = i % n
            ring.loads[server] += 1
        else:
            server = ring.take(key_of(way, chat, ids, block))
        going.append(server)
        most = max(most, ring.loads[server])
        servers[server].read(ids)
    work = [server.tokens - server.hits for server in servers]
    held = [path for server in servers for path in paths(server.index.root)]
    return {"hit rate": sum(s.hits for s in servers) / sum(s.tokens for s in servers),
            "held": len(held) * block, "copies": len(held) / max(1, len(set(held))),
            "busiest": max(work) / fmean(work), "in hand": most / flight}  # fmt: skip


def paths(node, before=0):
    """Each block below a node, as the hash of its whole path."""
    for key, child in node.children.items():
        here = hash((before, key))
        yield here
        yield from paths(child, here)


def sweep(numbers, n_turns, budget, slack=1.25, seed=0):
    """{way: {N: what replay found}} on one trace of many chats at once."""
    said = chats(n_turns, seed, users=max(12, n_turns // 8))
    return {way: {n: replay(said, n, way, budget=budget, slack=slack) for n in numbers} for way in WAYS}
