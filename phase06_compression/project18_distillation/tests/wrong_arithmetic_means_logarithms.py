"""The mean of logarithms, which no longer sums to 1: another mean, and one veto decides."""


def arithmetic(log_ps, weights):
    return (log_ps * weights[..., None]).sum(0)
