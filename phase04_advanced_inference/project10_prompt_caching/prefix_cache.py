"""The prefix cache: requests that begin alike share the keys and values of their beginning.

Came before: project 8's cache, which forgets a request when it ends. New here: what it computed is kept, in
blocks of tokens, in a radix tree: a path from the root spells a prompt, a block an edge. The next prompt
walks down as far as it agrees and computes only the rest.

    root ─ [You are a …] ─ [… helpful …] ─┬─ [Who is Mara?]        two prompts, two blocks shared
                                          └─ [Where is Joss?]

Three rules make that exact. A key depends on every token before it, so a block is found by its whole path,
compared token by token: a hash alone would mix prompts up. A block is never written after it was made: who
goes on from it works on a copy (copy-on-write). What a request is reading is held, and never evicted.

Seam: the contract, `model.hidden(tokens, caches=…)`. Zheng et al. 2023, 2312.07104 (RadixAttention);
Kwon et al. 2023, 2309.06180 (blocks); Gim et al. 2023, 2311.04934 (Prompt Cache).
"""

import heapq
from dataclasses import dataclass

import torch

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for


@torch.no_grad()
def recompute(model, ids):
    """The logits (V,) that follow ids, from all of them: the text and the oracle."""
    tokens = torch.tensor([ids], device=model.embed.weight.device)
    return model.head(model.hidden(tokens)[0, -1])


# ---- the index: which blocks are held, and where. No tensors: a handle is whatever the owner says ----


class Node:
    """One block: its tokens, the owner's handle, and how many requests are reading it now."""

    __slots__ = ("children", "handle", "holders", "key", "parent", "used")

    def __init__(self, key=(), handle=None, parent=None):
        self.key, self.handle, self.parent = key, handle, parent
        self.children, self.used, self.holders = {}, 0, 0


class PrefixIndex:
    """A radix tree over blocks of `block` tokens. Handles are opaque: tensors here, numbers in project 13."""

    def __init__(self, block=16):
        demand(block >= 1, f"blocks of {block} tokens: at least 1")
        self.block, self.root, self.blocks, self.tick = block, Node(), 0, 0

    @property
    def tokens(self):
        """How many tokens it holds."""
        return self.blocks * self.block

    def keys(self, ids):
        """The whole blocks of ids, as tuples; a last one that is not full is left out."""
        return [tuple(ids[i : i + self.block]) for i in range(0, len(ids) - self.block + 1, self.block)]

    @exercise
    def walk(self, ids):
        """The nodes that spell the beginning of ids, from the first block on, as far as there are any."""
        node, found = self.root, []
        for key in self.keys(ids):
            node = node.children.get(key)  # by hash, then by comparing every token
            if node is None:
                break
            found.append(node)
        return found

    def touch(self, nodes):
        """They were used just now, all at the same tick."""
        self.tick += 1
        for node in nodes:
            node.used = self.tick

    def match(self, ids):
        """(n, handles): how many of the first tokens of ids are held, and their blocks' handles."""
        nodes = self.walk(ids)
        self.touch(nodes)
        return len(nodes) * self.block, [node.handle for node in nodes]

    @exercise
    def insert(self, ids, handles):
        """Hold the whole blocks of ids, a handle for each; return the handles taken, in order.

        A block that is there already keeps its own handle: the one offered is not taken, and its owner may
        free it. UserError where handles are more or fewer than whole blocks.
        """
        keys, node, path = self.keys(ids), self.root, []
        demand(len(handles) == len(keys), f"{len(handles)} handles for {len(keys)} whole blocks")
        taken = []
        for key, handle in zip(keys, handles, strict=True):
            if key not in node.children:
                node.children[key] = Node(key, handle, node)
                self.blocks += 1
                taken.append(handle)
            node = node.children[key]
            path.append(node)
        self.touch(path)
        return taken

    def hold(self, ids):
        """Someone reads the blocks of ids that are held: evict leaves them. Returns how many tokens."""
        nodes = self.walk(ids)
        for node in nodes:
            node.holders += 1
        return len(nodes) * self.block

    def release(self, ids):
        """The opposite of hold(ids), with the ids that hold said: ids[:n]. UserError if they are not held."""
        nodes = self.walk(ids)
        demand(len(nodes) * self.block == len(ids), "released more than was held: pass ids[:n] of hold")
        demand(all(node.holders for node in nodes), "released twice: nobody holds these tokens")
        for node in nodes:
            node.holders -= 1

    @exercise
    def evict(self, n_tokens):
        """Forget blocks of n_tokens or a little more, and return their handles; fewer where all is held.

        Only a leaf that nobody holds can go: a block without its beginning is worth nothing. The one used
        longest ago goes first; its parent may be the next leaf.
        """
        if n_tokens <= 0:
            return []
        spare = [node for node in self.nodes() if not node.children and not node.holders]
        heap = [(node.used, number, node) for number, node in enumerate(spare)]  # the number settles ties
        heapq.heapify(heap)
        gone, number = [], len(heap)
        while heap and len(gone) * self.block < n_tokens:
            node, number = heapq.heappop(heap)[2], number + 1
            parent = node.parent
            del parent.children[node.key]
            gone.append(node.handle)
            if parent is not self.root and not parent.children and not parent.holders:
                heapq.heappush(heap, (parent.used, number, parent))
        self.blocks -= len(gone)
        return gone

    def nodes(self):
        """All of them, each after its parent."""
        found = list(self.root.children.values())
        for node in found:
            found.extend(node.children.values())
        return found


# ---- the cache: real keys and values behind the handles ----


@dataclass
class Prefill:
    """logits (V,) after the prompt; caches, one a block, to decode on with: they are this request's own."""

    logits: torch.Tensor
    caches: list
    reused: int  # tokens that were not computed
    kept: bool  # whether all its whole blocks are held now; if not, they did not fit


class PrefixCache:
    """Prefills prompts for one model, at most `budget` tokens held. A handle is a tensor (2 L, K, block, D):
    keys and values of each layer in turn, in storage of its own, so that forgetting it frees it."""

    def __init__(self, model, budget, block=16):
        demand(budget >= block, f"a budget of {budget} tokens holds not one block of {block}")
        self.model, self.budget, self.index = model, budget, PrefixIndex(block)

    def load(self, blocks, caches):
        """Copy blocks into fresh caches: from here on the request writes on its own copy."""
        if blocks:
            kv = torch.cat(blocks, dim=2)[:, None]  # (2 L, 1, K, n, D)
            positions = torch.arange(kv.size(3), device=kv.device)
            for layer, cache in enumerate(caches):
                cache.update(kv[2 * layer], kv[2 * layer + 1], positions)

    @exercise
    def keep(self, ids, caches):
        """Hold the whole blocks of ids, which the caches have: True, or False where the budget is too small.

        What is held already is neither copied again nor evicted to make room, and for a prompt longer than
        the budget nothing is evicted. New blocks are copies: the request goes on writing into its caches.
        """
        block = self.index.block
        end = len(ids) // block * block
        if end > self.budget:
            return False
        n = self.index.hold(ids)
        self.index.evict(max(0, self.index.tokens + end - n - self.budget))
        self.index.release(ids[:n])
        if self.index.tokens + end - n > self.budget:
            return False
        layers = [x for cache in caches for x in (cache.k, cache.v)]
        new = [torch.stack([x[0, :, i : i + block] for x in layers]) for i in range(n, end, block)]
        self.index.insert(ids[:end], self.index.match(ids[:n])[1] + new)
        return True

    @exercise
    @torch.no_grad()
    def prefill(self, ids, room=0):
        """Read a prompt, starting behind the longest beginning that is held: a Prefill.

        room: how many more tokens its caches should have space for. The last token is computed in any case:
        its logits are what we came for. UserError for an empty prompt, or one longer than the context.
        """
        context = self.model.config.max_seq_len
        demand(ids, "the prompt is empty: begin with a token, such as the tokenizer's end of text")
        demand(len(ids) <= context, f"a prompt of {len(ids)} tokens, and the context is {context}")
        n, blocks = self.index.match(ids[:-1])
        caches = caches_for(self.model, KVCache, 1, len(ids) + room)
        self.load(blocks, caches)
        rest = torch.tensor([ids[n:]], device=self.model.embed.weight.device)  # (1, T - n)
        logits = self.model.head(self.model.hidden(rest, caches=caches)[0, -1])  # (V,)
        return Prefill(logits, caches, n, self.keep(ids, caches))
