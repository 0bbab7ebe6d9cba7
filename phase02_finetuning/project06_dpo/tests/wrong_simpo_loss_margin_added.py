"""The margin is given away instead of asked for."""


def simpo_loss(policy, reference, lengths, beta, gamma=0.0):
    chosen, rejected = policy / lengths
    return -F.logsigmoid(beta * (chosen - rejected) + gamma)
