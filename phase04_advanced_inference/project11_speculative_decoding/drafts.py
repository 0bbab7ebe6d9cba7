"""Who guesses: a small model, or the text itself.

Came before: `speculative.Draft`, which never guesses. New here: `ModelDraft`, a small model with a cache of
its own that has to be rolled back too, and `PromptLookup`, which has no model: text repeats itself, so what
followed the last words where they stood before is a guess that costs nothing.

Each keeps the interface that project 12's engine asks of a draft: `propose`, `verify`, `close`.
Leviathan, Kalman, Matias 2022, 2211.17192; Saxena 2023, "Prompt Lookup Decoding" (repository).
"""

from dataclasses import replace

import torch

from common.errors import demand
from common.exercise import exercise
from common.sampling import draw
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for

from .rounds import feed
from .speculative import GUESS, Draft, pick, probabilities


def may_guess(texts, K):
    """[(text, how many guesses)]: none where one id is left, or where log-probabilities are asked for."""
    wanted = [(text, min(K, text.row.left - 1)) for text in texts if not text.sampling.logprobs]
    return [(text, n) for text, n in wanted if n > 0]


# ---- a small model ----


@exercise
def still_true(fed, ids):
    """How many of the ids that a cache was fed still begin the text; fewer than len(ids), as one is to feed.

    fed: what it was fed, guesses too; ids: the text as it is now. Positions from there on are fed again.
    """
    n = 0
    while n < min(len(fed), len(ids) - 1) and fed[n] == ids[n]:
        n += 1
    return n


class ModelDraft(Draft):
    """A small model of the same vocabulary guesses K tokens at most, each from those before it.

    rows: how many texts it can follow at a time; others get no guesses. size: tokens of the longest text.
    sure: a guess to which it gives a smaller share is the last of its round. Only the draft is asked, never
    the model, so whatever is kept still follows the model exactly.
    """

    def __init__(self, model, K, rows=1, size=None, sure=0.0):
        super().__init__()
        demand(K >= 1, f"{K} guesses a round: at least 1")
        demand(0 <= sure <= 1, f"sure is {sure}: it is a share, from 0 (never stop) to 1")
        self.model, self.K, self.sure = model, K, sure
        self.size = min(size or model.config.max_seq_len, model.config.max_seq_len)
        self.caches = caches_for(model, StaticCache, rows, self.size)
        self.free, self.row, self.fed = list(range(rows))[::-1], {}, {}

    @torch.no_grad()
    def propose(self, texts):
        """First the cache catches up: what was fed and turned out wrong is fed again, at its positions."""
        room = [(text, min(n, self.size + 1 - len(text.ids))) for text, n in may_guess(texts, self.K)]
        wanted = {text.id: n for text, n in room if n > 0 and self.has_row(text.id)}
        texts, work = [text for text in texts if text.id in wanted], []
        for text in texts:
            held = still_true(self.fed[text.id], text.ids)
            work.append((self.row[text.id], held, text.ids[held:]))
            self.fed[text.id], text.guesses, self.q[text.id] = list(text.ids), [], []
        while texts:
            hidden = feed(self.model, self.caches, work)  # (R, T, C)
            last = hidden[range(len(work)), [len(ids) - 1 for _, _, ids in work]]  # (R, C)
            shares = self.guess(texts, self.model.head(last))
            going = [i for i, text in enumerate(texts)
                     if len(text.guesses) < wanted[text.id] and shares[i] >= self.sure]  # fmt: skip
            texts, work = [texts[i] for i in going], [work[i] for i in going]
            work = [(row, start + len(ids), text.guesses[-1:])
                    for text, (row, start, ids) in zip(texts, work, strict=True)]  # fmt: skip
            for text in texts:
                self.fed[text.id].append(text.guesses[-1])
        self.q |= {id: torch.stack(self.q[id]) for id in wanted if self.q[id]}
        self.q = {id: q for id, q in self.q.items() if len(q)}  # no chance, no q

    def has_row(self, id):
        """Does the text have a row of the cache, now if not before?"""
        if id not in self.row and self.free:
            self.row[id], self.fed[id] = self.free.pop(), []
        return id in self.row

    def guess(self, texts, logits):
        """One more guess for each text, from logits (R, V): the best, or drawn as the text is, with its q.

        Returns R floats: the share that each guess has in the draft's eyes.
        """
        top, best = (found.tolist() for found in logits.softmax(-1).max(-1))
        for i, text in enumerate(texts):
            if text.sampling.temperature == 0:
                text.guesses.append(best[i])
                continue
            plain = replace(text.sampling, repetition_penalty=1.0)  # any q is exact; this one is simple
            q = probabilities(logits[i : i + 1], plain)[0]  # (V,)
            place = text.n_new + len(text.guesses)
            text.guesses.append(pick(q, draw(text.row.seed ^ GUESS, place)))
            self.q[text.id].append(q)
            top[i] = q[text.guesses[-1]].item()
        return top

    def close(self, id):
        super().close(id)
        if id in self.row:
            self.free.append(self.row.pop(id))
            del self.fed[id]


# ---- the text itself ----


@exercise
def lookup(ids, K, longest=3):
    """What followed the last ids where they stood before: K ids at most; none where they never did.

    The last `longest` ids are looked for first, from the beginning of the text, then one fewer, down to one.
    The first place that has anything behind it counts; what follows may reach into the last ids themselves.
    """
    for n in range(min(longest, len(ids) - 1), 0, -1):
        tail = ids[-n:]
        for start in range(len(ids) - n):
            if ids[start : start + n] == tail:
                return ids[start + n : start + n + K]
    return []


class PromptLookup(Draft):
    """Guesses K ids by `lookup`: no model, no cache, nothing to roll back."""

    def __init__(self, K, longest=3):
        super().__init__()
        demand(K >= 1 and longest >= 1, f"{K} guesses after {longest} ids: at least 1 of each")
        self.K, self.longest = K, longest

    def propose(self, texts):
        for text, n in may_guess(texts, self.K):
            text.guesses = lookup(text.ids, n, self.longest)
