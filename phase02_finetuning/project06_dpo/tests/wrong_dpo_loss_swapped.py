"""The rejected answer is the one that is learned."""


def dpo_loss(policy, reference, lengths, beta, gamma=0.0):
    chosen, rejected = policy - reference
    return -F.logsigmoid(beta * (rejected - chosen))
