"""The mean over all tokens: long answers count more."""


def grpo_loss(new, old, reference, advantages, mask, clip=0.2, beta=0.04):
    ratio = (new - old).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    loss = (beta * ratio * kl_estimate(new, reference) - gain) * mask  # (B, L)
    return loss.sum() / mask.sum()
