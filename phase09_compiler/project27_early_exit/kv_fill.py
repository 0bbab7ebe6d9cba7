"""Decoding with ways out: blocks above are really left out, and their caches are filled when somebody asks.

Came before: `exits.early_exit`, which computes everything. New here: a step that stops where its token
leaves. But a token that leaves after two blocks has no keys in the third, and the next one that climbs there
looks for them. They are made from the state that it left with (state copying), not at once but when they are
first needed: a cache that lags behind catches up in one product, for all that it missed; and where nobody
climbs, nobody pays.

Seam: the contract, `model.blocks`, with the counting caches of project 8.
Elbayad et al. 2020, 1910.10073 (state copying); Schuster et al. 2022, 2207.07061 (CALM).
"""

import torch

from common.exercise import exercise
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, check_room, greedy

from .exits import Look


class Lagging:
    """A counting cache for each block, for B rows of at most `size` tokens; those above may lag behind.

    states (B, size, C): what each token that left had become. length: how many tokens were fed.
    """

    def __init__(self, model, B, size):
        self.model, self.length = model, 0
        self.caches = caches_for(model, KVCache, B, size)
        self.states = model.embed.weight.new_empty(B, size, model.config.d_model)

    @torch.no_grad()
    def prefill(self, tokens):
        """Feed a prompt (B, T), to the top; logits (B, V) behind its last token."""
        hidden = self.model.hidden(tokens, caches=self.caches)
        self.length += tokens.size(1)
        return self.model.head(hidden[:, -1])

    @exercise
    def catch_up(self, i):
        """Give the cache of block i, counted from 0, keys and values of the tokens that it lacks.

        These are the last of the `length` tokens that were fed, all of which left below block i (whoever got
        there had the cache catch up). Their keys and values are made as the block makes them, norm first and
        each at its own position, from the states that they left with. Nothing is lacking: nothing is done.
        """
        block, cache = self.model.blocks[i], self.caches[i]
        if cache.length == self.length:
            return
        missing = torch.arange(cache.length, self.length, device=self.states.device)
        x = block.norm_attn(self.states[:, cache.length : self.length])  # (B, n, C)
        _, k, v = block.attn.project(x, self.model.rope(missing))
        cache.update(k, v, missing)

    @exercise
    @torch.no_grad()
    def step(self, tokens, rule):
        """Feed one more token of each row, (B, 1): (logits (B, V) of where they leave, after how many
        blocks).

        Rows leave together, at the first way out at which the rule lets all of them, else at the top. Each
        block's cache catches up before the block is computed. What the tokens left with goes into `states`.
        """
        model, positions = self.model, torch.tensor([self.length], device=tokens.device)
        x, rope, top = model.embed(tokens, positions), model.rope(positions), len(model.blocks)
        rule.begin()
        for n, block in enumerate(model.blocks, 1):
            self.catch_up(n - 1)
            x = block(x, rope=rope, positions=positions, cache=self.caches[n - 1])  # (B, 1, C)
            look = Look(model, n, x)
            if n == top or (rule.asked(model, n) and rule(look).all()):
                break
        self.states[:, self.length] = x[:, 0]
        self.length += 1
        return look.logits[:, -1], n


def decode_early(model, tokens, n, rule, choose=greedy, caches=None):
    """n tokens after tokens (B, T): (ids (B, n), after how many blocks each fed token left, a list of n - 1).

    The prompt is read to the top, as project 8's `decode` reads it; so the first id is the plain model's.
    caches: `Lagging` ones, by default new. UserError where the context is too short.
    """
    check_room(model, tokens.size(1), n)
    caches = caches or Lagging(model, len(tokens), tokens.size(1) + n)
    ids, left = [choose(caches.prefill(tokens), 0)[:, None]], []
    for i in range(1, n):
        logits, depth = caches.step(ids[-1], rule)
        ids.append(choose(logits, i)[:, None])
        left.append(depth)
    return torch.cat(ids, dim=1), left


def bound(left, n_layer, head=0.0, check=0.0, checks=0.0, turn=0.0):
    """How many times as fast at most, if a block costs 1, the head `head`, a look at a way out `check`.

    left: after how many blocks tokens left; checks: looks a token; turn: a translator, which who leaves early
    needs. Nothing else is counted: no filling, and nothing that a step does besides.
    """
    climbed, early = sum(left) / len(left), sum(n < n_layer for n in left) / len(left)
    return (n_layer + head) / (climbed + head + check * checks + turn * early)
