"""beta goes to the student's side: the two ends are swapped."""


def jsd_loss(logits, log_p, T=1.0, beta=0.5):
    log_q, share = soften(logits, T), torch.tensor([1 - beta, beta]).log()
    log_m = torch.logaddexp(log_p + share[0], log_q + share[1])
    apart = [(x.exp() * (x - log_m)).sum() for x in (log_p, log_q)]
    return T**2 * ((1 - beta) * apart[0] + beta * apart[1])
