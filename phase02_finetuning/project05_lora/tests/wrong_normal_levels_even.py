"""Sixteen levels at equal distances, as if weights were spread evenly."""


def normal_levels():
    return torch.linspace(-1, 1, 16)
