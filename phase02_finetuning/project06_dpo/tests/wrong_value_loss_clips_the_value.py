"""The value is clipped about zero, not about what was guessed before."""


def value_loss(new, old, returns, mask, clip=0.2):
    near = new.clamp(-clip, clip)
    worse = torch.maximum((new - returns).square(), (near - returns).square())
    return 0.5 * masked_mean(worse, mask)
