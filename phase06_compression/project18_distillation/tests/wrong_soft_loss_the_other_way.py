"""KL(q ‖ p): the student's own shares weigh the difference."""


def soft_loss(logits, log_p, T):
    log_q = soften(logits, T)
    return T**2 * (log_q.exp() * (log_q - log_p)).sum()
