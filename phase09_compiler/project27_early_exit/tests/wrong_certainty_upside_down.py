"""The entropy itself: 0 where the token is sure."""


def certainty(look):
    log_p = look.logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / math.log(log_p.size(-1))
