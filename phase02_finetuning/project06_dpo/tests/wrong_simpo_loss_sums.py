"""Sums instead of means per token: the shorter answer wins."""


def simpo_loss(policy, reference, lengths, beta, gamma=0.0):
    chosen, rejected = policy
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)
