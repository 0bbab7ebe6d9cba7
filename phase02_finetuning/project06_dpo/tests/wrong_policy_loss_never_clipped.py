"""The plain ratio: one batch may be used until the policy falls over."""


def policy_loss(new, old, advantages, mask, clip=0.2):
    ratio = (new - old).exp()
    clipped = ratio
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask)
