"""Key heads are handed round in turns, so that query heads look at another group's keys."""


def importance(block, x, cache, rope):
    q, _, _ = block.attn.project(block.norm_attn(x[None]), rope)
    k = cache.k[0, :, : cache.length].repeat(q.size(1) // cache.k.size(1), 1, 1)
    scores = (k @ q[0].transpose(1, 2)).squeeze(-1) / math.sqrt(q.size(-1))
    return scores.softmax(-1).mean(0)
