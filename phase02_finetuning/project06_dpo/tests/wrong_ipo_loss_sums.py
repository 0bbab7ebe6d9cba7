"""Sums instead of means per token: long answers count more."""


def ipo_loss(policy, reference, lengths, beta, gamma=0.0):
    chosen, rejected = (policy - reference)
    return (chosen - rejected - 1 / (2 * beta)) ** 2
