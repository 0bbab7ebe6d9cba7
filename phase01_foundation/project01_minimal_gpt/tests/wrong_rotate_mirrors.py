"""One sign is wrong: a mirror, not a rotation, and the score depends on the place."""


def rotate(x, angles):
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((a * cos + b * sin, b * cos + a * sin), dim=-1)
