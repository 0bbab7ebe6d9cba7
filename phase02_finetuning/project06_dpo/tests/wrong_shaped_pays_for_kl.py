"""The sign of the KL price is turned: to stray is rewarded."""


def shaped(scores, logprobs, reference, mask, beta):
    rewards = beta * (logprobs - reference) * mask
    last = mask.int().cumsum(1).argmax(1)  # (B,) the first place where the count is full
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards))
