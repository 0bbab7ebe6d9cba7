"""Pairs neighbours (0 with 1, 2 with 3), as other code bases do; weights trained for halves do not fit."""


def rotate(x, angles):
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
