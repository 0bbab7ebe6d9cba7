"""The ratio is upside down: an estimate of another KL."""


def kl_estimate(logprobs, reference):
    behind = logprobs - reference
    return behind.exp() - 1 - behind
