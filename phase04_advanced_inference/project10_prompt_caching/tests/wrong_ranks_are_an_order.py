"""Gives back who stands at each place, not where each one stands."""


def ranks(scores):
    return np.argsort(-scores, kind="stable") + 1
