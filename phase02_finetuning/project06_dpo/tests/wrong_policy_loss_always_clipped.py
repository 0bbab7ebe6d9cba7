"""The clipped ratio alone: after a step the wrong way there is no way back."""


def policy_loss(new, old, advantages, mask, clip=0.2):
    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -masked_mean(clipped * advantages, mask)
