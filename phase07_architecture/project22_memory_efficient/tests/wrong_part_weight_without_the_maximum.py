"""Gives the log of the sum after the largest score was taken off, and never puts that score back."""


def part(q, k, v, look=None):
    scores = scores_of(q, k)
    if look is not None:
        scores = scores.masked_fill(~look, -math.inf)
    lse = scores.logsumexp(-1, keepdim=True).clamp_min(LOW)
    p = (scores - lse).exp()
    return p @ v.to(q.dtype), -p.amax(-1, keepdim=True).log() if p.size(-1) and p.any() else lse
