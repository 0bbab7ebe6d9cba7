"""Nats over bits: never below 0.3."""


def certainty(look):
    log_p = look.logits.log_softmax(-1)
    return 1 + (log_p.exp() * log_p).sum(-1) / math.log2(log_p.size(-1))
