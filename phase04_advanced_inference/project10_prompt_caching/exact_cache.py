"""The exact cache: a request that was answered before, to the last token and setting, is answered again.

Came before: `common.generate`, which computes every answer. New here: a dictionary in front of it. Its whole
art is the key. Everything that the answer depends on must be in it (all the tokens, not the first hundred;
the sampling; whose weights), and what is left to chance must not be kept at all.

Seam: none; it stands before the model. Bang 2023, GPTCache (NLP-OSS), is the service built on this idea.
"""

from collections import deque
from dataclasses import replace

from common.errors import demand
from common.exercise import exercise


class HitRate:
    """The share of the last `window` lookups that hit, and of all of them."""

    def __init__(self, window=100):
        demand(window >= 1, f"a window of {window} lookups: at least 1")
        self.recent, self.lookups, self.hits = deque(maxlen=window), 0, 0

    def add(self, hit, weight=1):
        """Count one lookup. weight: of how much it was, in tokens, say; hit may be any part of it."""
        demand(0 <= hit <= weight, f"{hit} of {weight} cannot hit: between none and all")
        self.recent.append((hit, weight))
        self.hits, self.lookups = self.hits + hit, self.lookups + weight

    @property
    def now(self):
        """Over the window, in 0 to 1; 0 before the first lookup."""
        weight = sum(w for _, w in self.recent)
        return sum(h for h, _ in self.recent) / weight if weight else 0.0

    @property
    def overall(self):
        """Over everything there ever was, in 0 to 1."""
        return self.hits / self.lookups if self.lookups else 0.0


@exercise
def key_of(ids, sampling, model=""):
    """What the answer to a request depends on, as something hashable; None where it depends on chance.

    ids: the prompt's, a list. model: which weights, by name or hash. An answer at temperature 0 depends on no
    seed; one above it, without a seed, is drawn anew each time and must never be repeated from a cache.
    """
    if sampling.temperature > 0 and sampling.seed is None:
        return None
    settings = replace(sampling, seed=None) if sampling.temperature == 0 else sampling
    return model, settings, tuple(ids)


class ExactCache:
    """Answers by key. store: anything with get(key) and put(key, value, size), such as a TokenStore.

    A dictionary compares the whole key after its hash, so two prompts of one hash are never mixed up.
    """

    def __init__(self, store, model=""):
        self.store, self.model, self.rate = store, model, HitRate()

    @exercise
    def answer(self, ids, sampling, compute):
        """The answer (a sequence of ids) to a request: the kept one, or compute()'s, kept from then on.

        It is kept as a tuple of its own, at the size of its tokens with the prompt's. A request that depends
        on chance is computed and not kept, and counts as a miss.
        """
        key = key_of(ids, sampling, self.model)
        found = None if key is None else self.store.get(key)
        self.rate.add(found is not None)
        if found is not None:
            return found
        answer = tuple(compute())
        if key is not None:
            self.store.put(key, answer, len(ids) + len(answer))
        return answer
