"""Scores are not divided by the root of the head's size: the attention is too sharp."""


def importance(block, x, cache, rope):
    q, _, _ = block.attn.project(block.norm_attn(x[None]), rope)
    k = cache.k[0, :, : cache.length].repeat_interleave(q.size(1) // cache.k.size(1), 0)
    scores = (k @ q[0].transpose(1, 2)).squeeze(-1)
    return scores.softmax(-1).mean(0)
