"""Forgets to divide by the square root of D."""


def attend(q, k, v, causal=True):
    scores = q @ k.transpose(-2, -1)
    if causal:
        scores = hide_future(scores)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights
