"""Puts heads g, g + G, g + 2G, … into group g: not those that share queries."""


def pool_heads(weight, head_dim, groups):
    return weight.unflatten(0, (-1, groups, head_dim)).mean(0).flatten(0, 1)
