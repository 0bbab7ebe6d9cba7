"""The reference is forgotten: what was likely before stays preferred."""


def dpo_loss(policy, reference, lengths, beta, gamma=0.0):
    chosen, rejected = policy
    return -F.logsigmoid(beta * (chosen - rejected))
