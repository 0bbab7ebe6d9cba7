"""Masks the shares instead of the scores: the rows no longer sum to 1."""


def attend(q, k, v, causal=True):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    weights = scores.softmax(dim=-1)
    if causal:
        weights = weights.tril()
    return weights @ v, weights
