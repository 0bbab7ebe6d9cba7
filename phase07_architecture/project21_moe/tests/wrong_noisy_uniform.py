"""Uniform numbers from 0 to 1: every logit is raised, and spread by less than was said."""


def noisy(logits, spread):
    return logits + torch.rand_like(logits) * F.softplus(spread)
