"""Believes whoever hesitates most."""


def by_confidence(log_ps):
    entropy = -(log_ps.exp() * log_ps).sum(-1)
    return entropy.softmax(0)
