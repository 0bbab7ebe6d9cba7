"""Mixes logarithms in place of shares: m is no distribution."""


def jsd_loss(logits, log_p, T=1.0, beta=0.5):
    log_q = soften(logits, T)
    log_m = beta * log_p + (1 - beta) * log_q
    apart = [(x.exp() * (x - log_m)).sum() for x in (log_p, log_q)]
    return T**2 * (beta * apart[0] + (1 - beta) * apart[1])
