"""The score is paid at every token: long answers are worth more."""


def shaped(scores, logprobs, reference, mask, beta):
    rewards = -beta * (logprobs - reference) * mask
    return rewards + scores[:, None] * mask
