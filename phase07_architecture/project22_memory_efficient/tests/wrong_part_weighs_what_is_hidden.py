"""Takes the log-sum-exp before it hides anything: keys that nobody sees weigh as much as the others."""


def part(q, k, v, look=None):
    scores = scores_of(q, k)
    lse = scores.logsumexp(-1, keepdim=True).clamp_min(LOW)
    if look is not None:
        scores = scores.masked_fill(~look, -math.inf)
        if not look.any():
            lse = lse * 0 + LOW
    return scores.softmax(-1).nan_to_num() @ v.to(q.dtype), lse
