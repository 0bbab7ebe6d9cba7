"""Token pruning: of a prompt's tokens only those climb on that the last one looks at.

Came before: ways out for the tokens that are written. New here: for those that are read. A prompt of a
thousand tokens is a thousand climbs, and what is asked at its end concerns a few of them. After some blocks
the last token's attention says which; the others stop there, and unlike in `kv_fill` nobody fills their
places above: nobody looks at them any more, which spares attention too.

Seam: the contract, `model.blocks`, with the core's counting caches: one that holds fewer tokens than the one
below it is no trouble, as slots are only counted and each token brings its own position.
Goyal et al. 2020, 2001.08950 (PoWER-BERT); Fu et al. 2024, 2407.14057 (LazyLLM).
"""

import math

import torch

from common.errors import demand
from common.exercise import exercise
from common.model import Cache


@exercise
def importance(block, x, cache, rope):
    """How much the last token looks at each one, (S,), the mean over heads: numbers that add up to 1.

    x (1, C): the last token's state before the block; cache: the block's, which holds S keys with its own as
    the last; rope: of its position. Each key head serves as many query heads as there are to one of it.
    """
    q, _, _ = block.attn.project(block.norm_attn(x[None]), rope)  # (1, H, 1, D)
    k = cache.k[0, :, : cache.length].repeat_interleave(q.size(1) // cache.k.size(1), 0)  # (H, S, D)
    scores = (k @ q[0].transpose(1, 2)).squeeze(-1) / math.sqrt(q.size(-1))  # (H, S)
    return scores.softmax(-1).mean(0)


@exercise
def most_important(weights, count):
    """The places of the `count` largest of weights (S,), rising; the last place always is among them."""
    weights = weights.clone()
    weights[-1] = torch.inf
    return weights.topk(count).indices.sort().values


@exercise
@torch.no_grad()
def prefill(model, tokens, shares, weigh=importance):
    """Read a prompt (1, T): (what the last token became, (1, C), for the head; caches; places kept, a list).

    shares {n: share}: after n blocks, that share of the tokens that are still there climbs on, rounded up,
    chosen by `weigh` in that last block. caches: one for each block, with the keys of those that came to
    it. Then go on with `model(ids (1, 1), caches=caches)`, a token at a time: its position is counted by the
    first cache, which has them all.
    """
    demand(len(tokens) == 1, f"{len(tokens)} prompts: rows would keep different tokens; read one at a time")
    fits = all(n >= 1 and 0 < share <= 1 for n, share in shares.items())
    demand(fits, "shares are above 0 and at most 1, after 1 block or more: the first cache has to count all")
    positions = torch.arange(tokens.size(1), device=tokens.device)
    x, caches, kept = model.embed(tokens, positions), [Cache() for _ in model.blocks], [positions]
    for n, (block, cache) in enumerate(zip(model.blocks, caches, strict=True), 1):
        before, rope = x, model.rope(positions)
        x = block(x, rope=rope, positions=positions, cache=cache)  # (1, S, C)
        if n in shares:
            weights = weigh(block, before[:, -1], cache, model.rope(positions[-1:]))
            places = most_important(weights, math.ceil(shares[n] * len(positions)))
            x, positions = x[:, places], positions[places]
            kept.append(positions)
    return model.norm(x[:, -1]), caches, kept
