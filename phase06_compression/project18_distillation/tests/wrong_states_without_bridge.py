"""Leaves the bridges out: nothing learns to see one width in the other."""


def state_loss(mine, theirs, bridges):
    pairs = zip(mine, theirs, strict=True)
    return torch.stack([(x - F.rms_norm(y, y.shape[-1:])).square().mean() for x, y in pairs]).mean()
