"""The chance that two draws are the same token, which is not what a guess is kept by."""


def overlap(log_p, log_q):
    return (log_p + log_q).exp().sum(-1)
