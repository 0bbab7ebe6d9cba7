"""Takes the softmax over the tokens that look, not over those looked at."""


def attend(q, k, v, causal=True):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    if causal:
        scores = hide_future(scores)
    weights = scores.softmax(dim=-2)
    return weights @ v, weights
