"""A window on the past: a text without end in a memory that has one.

Came before: `kv_cache.py`, whose caches grow with the text. New here: a query sees itself and the window - 1
tokens before it, so what lies further back need not be kept.

Seam: `attend`. The cache evicts, so it has no `update`: the plain attend fails on it, `windowed` reads it.
Child et al. 2019, 1904.10509 (local attention); Jiang et al. 2023, 2310.06825 (a cache that rolls with it).
"""

import torch
import torch.nn.functional as F

from common.errors import demand
from common.exercise import exercise
from common.model import distance


class WindowCache:
    """What a query can still see of the past, if it sees `window` tokens with itself: the last window - 1.

    It forgets, so it has no `update`, and the plain attend fails on it: `windowed` reads it.
    """

    def __init__(self, B, K, D, window, like=None):
        like = torch.empty(0) if like is None else like
        demand(window >= 1, f"a window of {window} tokens: a query sees at least itself")
        self.k, self.v, self.window = like.new_empty(B, K, 0, D), like.new_empty(B, K, 0, D), window
        self._length = 0

    @property
    def length(self):
        """How many tokens it has seen, held or forgotten. It cannot be set: what is forgotten is gone."""
        return self._length

    @exercise
    def extend(self, k, v):
        """Take in k and v (B, K, T, D); return what the T queries may need, and where it stands.

        keys and values (B, K, S, D): what was held, then the new ones; their positions (S,). Afterwards only
        the last window - 1 are held, in tensors of their own, so that the others' memory is free.
        """
        k, v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        self._length += k.size(2) - self.k.size(2)
        first = max(0, k.size(2) - (self.window - 1))
        self.k, self.v = k[:, :, first:].clone(), v[:, :, first:].clone()
        return k, v, torch.arange(self._length - k.size(2), self._length, device=k.device)


def windowed(window):
    """An attend in which a query sees itself and the window - 1 before it, with any cache or none."""

    def attend(q, k, v, *, positions, cache=None, mask=None):
        if isinstance(cache, WindowCache):
            k, v, keys = cache.extend(k, v)
            behind = positions[:, None] - keys  # (T, S)
        else:
            k, v = (k, v) if cache is None else cache.update(k, v, positions)
            behind = distance(positions, k.size(2), cache)  # (T, S) or (B, 1, T, S)
        look = (behind >= 0 if mask is None else mask) & (behind < window)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=look, enable_gqa=q.size(1) != k.size(1))

    return attend
