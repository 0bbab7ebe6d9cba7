"""Leaves T² out: the hotter, the less the teacher is heard."""


def soft_loss(logits, log_p, T):
    log_q = soften(logits, T)
    return (log_p.exp() * (log_p - log_q)).sum()
