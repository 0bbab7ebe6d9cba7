"""Mean scores times mean scores: what was chosen does not count."""


def balance_loss(scores, experts):
    N, E = scores.shape
    mean = (scores / scores.sum(-1, keepdim=True)).sum(0) / max(1, N)
    return E * mean.square().sum()
