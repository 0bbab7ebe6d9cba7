"""Holds the student's shares for given: half of the gradient is missing."""


def reverse_loss(logits, log_p, T=1.0):
    log_q = soften(logits, T)
    return T**2 * (log_q.detach().exp() * (log_q - log_p)).sum()
