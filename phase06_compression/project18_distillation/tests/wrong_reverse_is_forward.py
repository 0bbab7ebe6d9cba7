"""KL(p ‖ q) again: it still asks the student to cover everything."""


def reverse_loss(logits, log_p, T=1.0):
    return T**2 * (log_p.exp() * (log_p - soften(logits, T))).sum()
