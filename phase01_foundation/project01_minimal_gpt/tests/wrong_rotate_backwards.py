"""Turns the other way: distances still work, weights from elsewhere do not."""


def rotate(x, angles):
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)
