"""beta scales the loss, not the margin inside the sigmoid."""


def dpo_loss(policy, reference, lengths, beta, gamma=0.0):
    chosen, rejected = policy - reference
    return -beta * F.logsigmoid(chosen - rejected)
