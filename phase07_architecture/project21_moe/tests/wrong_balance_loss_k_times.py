"""Shares of tokens, not of choices: k times too large."""


def balance_loss(scores, experts):
    N, E = scores.shape
    share = load(experts, E) / max(1, N)
    mean = (scores / scores.sum(-1, keepdim=True)).sum(0) / max(1, N)
    return E * (share * mean).sum()
