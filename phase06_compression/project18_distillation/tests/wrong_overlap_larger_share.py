"""Adds up the larger of each two shares."""


def overlap(log_p, log_q):
    return torch.maximum(log_p, log_q).exp().sum(-1)
