"""Compares with the teacher's states as they are: the longest of them is all that counts."""


def state_loss(mine, theirs, bridges):
    pairs = zip(bridges, mine, theirs, strict=True)
    return torch.stack([(bridge(x) - y).square().mean() for bridge, x, y in pairs]).mean()
