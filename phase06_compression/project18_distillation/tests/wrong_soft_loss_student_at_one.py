"""Softens the teacher alone: the student is compared at temperature 1."""


def soft_loss(logits, log_p, T):
    log_q = soften(logits, 1.0)
    return T**2 * (log_p.exp() * (log_p - log_q)).sum()
