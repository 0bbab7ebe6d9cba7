"""The plain difference: right in the mean, and often negative."""


def kl_estimate(logprobs, reference):
    behind = reference - logprobs
    return -behind
