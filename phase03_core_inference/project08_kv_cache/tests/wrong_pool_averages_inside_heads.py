"""Takes the mean over the dimensions of a head instead of over the heads."""


def pool_heads(weight, head_dim, groups):
    heads = weight.unflatten(0, (groups, -1, head_dim))
    return heads.mean((1, 2), keepdim=True).expand(-1, 1, head_dim, -1).flatten(0, 2)
