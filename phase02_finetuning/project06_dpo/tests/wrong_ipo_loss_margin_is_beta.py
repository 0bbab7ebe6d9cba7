"""The margin to reach is taken for beta itself."""


def ipo_loss(policy, reference, lengths, beta, gamma=0.0):
    chosen, rejected = (policy - reference) / lengths
    return (chosen - rejected - beta) ** 2
