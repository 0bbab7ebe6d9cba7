"""Sums the values by their weights and never divides: the merge weighs such sums a second time."""


def part(q, k, v, look=None):
    scores = scores_of(q, k)
    if look is not None:
        scores = scores.masked_fill(~look, -math.inf)
    lse = scores.logsumexp(-1, keepdim=True).clamp_min(LOW)
    return scores.exp() @ v.to(q.dtype), lse
