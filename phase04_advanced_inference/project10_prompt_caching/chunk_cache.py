"""The chunk cache: passages that a search found are read once, each alone, and put together in any order.

Came before: the prefix cache, exact, and of no use here: one prompt has passages 7 and 3 in it, the next one
3 and 9, and a passage stands behind other ones, at another place, each time. New here: the keys and values of
a passage read alone, *turned* to where it stands now. RoPE turns a key by its position, and turns add up: a
key of position p becomes the one of p + d by turning it by d. Values know no positions.

    [ passage 7 ][ passage 3 ][ question ]        kept: each passage, read at 0, 1, 2 …
      + 0          + 31         computed          turned by what stands before it

What no turning mends: read alone, a passage has not seen what now stands before it. In the first layer its
keys and values are right to the last digits, from the second on they are only near. So this cache is *not*
exact: it computes what `apart` says, to the last digits, and `explore 10 --parts chunks` measures the rest.

Seam: the contract, `model.hidden(tokens, caches=…, mask=…)`. Gim et al. 2023, 2311.04934 (Prompt Cache);
Yao et al. 2024, 2405.16444 (CacheBlend); Su et al. 2021, 2104.09864 (RoPE).
"""

import torch

from common.errors import demand
from common.exercise import exercise
from common.model import rotate
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for

from .prefix_cache import Prefill


def apart(lengths):
    """Who may look at whom, (T, T), True = look: a part of these lengths at itself, the last one at all.

    No one ever looks ahead. With this mask and the positions of the whole, the model computes what the chunk
    cache puts together: the oracle.
    """
    part = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))  # (T,)
    own = (part[:, None] == part) | (part[:, None] == len(lengths) - 1)
    return own & torch.ones(len(part), len(part), dtype=torch.bool).tril()


@torch.no_grad()
def recompute(model, passages, question, mask=None):
    """The logits (V,) that follow the question, all of it read at once: the text, and what it should be."""
    ids = [token for part in (*passages, question) for token in part]
    tokens = torch.tensor([ids], device=model.embed.weight.device)  # (1, T)
    mask = None if mask is None else mask.to(tokens.device)
    return model.head(model.hidden(tokens, mask=mask)[0, -1])


@exercise
def turn(k, by, rope):
    """Keys (B, K, T, D) of any positions, as they are `by` places further on. rope: the model's, a Rope.

    Each pair of numbers is turned by the same angles for all T, those of position `by`.
    """
    return rotate(k, rope(torch.tensor([by], device=k.device)))  # (cos, sin) of (1, 1, D/2)


class ChunkCache:
    """Passages for one model. store: get(key) and put(key, value, size), such as a TokenStore.

    hot: None, or HotKeys: then only a passage that is asked for often is kept, and the others do not push it
    out. UserError for a model without RoPE: its keys cannot be moved.
    """

    def __init__(self, model, store, hot=None):
        turns = model.rope(torch.zeros(1, dtype=torch.long, device=model.embed.weight.device))
        demand(turns is not None, "this model adds its positions to the text: kept keys cannot be moved")
        self.model, self.store, self.hot = model, store, hot

    @torch.no_grad()
    def read(self, ids):
        """(kept before?, keys and values (L, 2, K, n, D)) of a passage as it stands alone, from 0 on."""
        demand(ids, "a passage is empty: leave it out")
        key = tuple(ids)
        hot, kv = self.hot is None or self.hot.see(key), self.store.get(key)
        if kv is not None:
            return True, kv
        caches = caches_for(self.model, KVCache, 1, len(ids))
        self.model.hidden(torch.tensor([ids], device=self.model.embed.weight.device), caches=caches)
        kv = torch.stack([torch.stack((cache.k[0], cache.v[0])) for cache in caches])
        if hot:
            self.store.put(key, kv, len(ids))
        return False, kv

    def place(self, kv, by):
        """Keys and values (L, 2, K, n, D) of a passage, for where `by` tokens stand before it."""
        return torch.stack((turn(kv[:, 0], by, self.model.rope), kv[:, 1]), dim=1)

    @exercise
    @torch.no_grad()
    def prefill(self, passages, question, room=0):
        """Read a question behind passages, lists of ids: a Prefill; its `reused` tokens were kept before.

        Each passage goes into the caches where it stands in the prompt; only the question is computed, and it
        looks at all of them. room: how many more tokens the caches should have space for. UserError for an
        empty question or a prompt longer than the context.
        """
        context, T = self.model.config.max_seq_len, len(question) + sum(map(len, passages))
        demand(question, "the question is empty: its last token is what the answer follows")
        demand(context >= T, f"a prompt of {T} tokens, and the context is {context}: fewer passages")
        caches, at, reused = caches_for(self.model, KVCache, 1, T + room), 0, 0
        for ids in passages:
            kept, kv = self.read(ids)
            positions = at + torch.arange(len(ids), device=kv.device)
            for cache, (k, v) in zip(caches, self.place(kv, at), strict=True):
                cache.update(k[None], v[None], positions)
            at, reused = at + len(ids), reused + kept * len(ids)
        rest = torch.tensor([question], device=self.model.embed.weight.device)  # (1, T - at)
        logits = self.model.head(self.model.hidden(rest, caches=caches)[0, -1])  # (V,)
        return Prefill(logits, caches, reused, all(tuple(ids) in self.store.items for ids in passages))
