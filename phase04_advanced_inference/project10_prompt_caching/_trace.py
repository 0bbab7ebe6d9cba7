"""A replayed trace of chats, and its hit rate: with the prefix index, and with one that knows the future."""

import math
import random

from .prefix_cache import PrefixIndex


def conversations(n, seed=0, users=12):
    """n prompts (lists of ids): the turns of `chats`, without saying whose."""
    return [prompt for _, prompt in chats(n, seed, users)]


def chats(n, seed=0, users=12):
    """n turns (chat's number, prompt): chats of 2 to 6 turns, interleaved, three system prompts among them.

    Each turn's prompt is the whole chat so far and a new question; most who speak have spoken lately.
    """
    draw = random.Random(seed)

    def some(low, high):
        return [draw.randrange(10_000) for _ in range(draw.randint(low, high))]

    systems, going, said, born = [some(100, 300) for _ in range(3)], [], [], 0
    while len(said) < n:
        if len(going) < users:
            going.append([draw.choice(systems) + some(10, 60), draw.randint(2, 6), born])
            born += 1
        chat = going.pop(min(int(draw.expovariate(4.8 / users)), len(going) - 1))
        said.append((chat[2], list(chat[0])))
        chat[0], chat[1] = chat[0] + some(20, 120) + some(10, 60), chat[1] - 1  # answer, question
        if chat[1]:
            going.insert(0, chat)
    return said


def hit_rate(prompts, budget, block):
    """The share of all prompt tokens that were held, in an index of at most `budget` tokens."""
    index, hits = PrefixIndex(block), 0
    for ids in prompts:
        n, handles = index.match(ids)
        hits, end = hits + n, len(ids) // block * block
        if end <= budget:
            index.hold(ids[:n])
            index.evict(max(0, index.tokens + end - n - budget))
            index.release(ids[:n])
            index.insert(ids[:end], handles + [None] * ((end - n) // block))
        assert index.tokens <= budget
    return hits / sum(map(len, prompts))


def paths_of(prompts, block):
    """Each prompt as the numbers of its blocks; one number for one block behind one beginning."""
    numbers, rows = {}, []
    for ids in prompts:
        path, parent = [], -1
        for i in range(0, len(ids) - block + 1, block):
            parent = numbers.setdefault((parent, tuple(ids[i : i + block])), len(numbers))
            path.append(parent)
        rows.append(path)
    return rows


def optimal_rate(prompts, budget, block):
    """The same with Belady's rule: out go the blocks that are needed again last, the deepest first.

    A block is needed whenever its child is, so none ever loses its beginning. Blocks have one size: no rule
    that keeps every prompt it has read can hit more often.
    """
    rows = paths_of(prompts, block)
    uses = {}
    for at, path in enumerate(rows):
        for block_number in path:
            uses.setdefault(block_number, []).append(at)
    held, hits = set(), 0
    for at, path in enumerate(rows):
        hits += sum(number in held for number in path)
        if len(path) * block <= budget:
            held.update(path)
        spare = len(held) - budget // block
        if spare > 0:
            def again(number, now=at):
                return next((use for use in uses[number] if use > now), math.inf), number

            held -= set(sorted(held, key=again)[-spare:])
    return hits * block / sum(map(len, prompts))
