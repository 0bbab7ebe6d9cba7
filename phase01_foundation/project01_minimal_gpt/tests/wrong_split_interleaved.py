"""Deals the numbers out to the heads like cards: number i goes to head i mod H."""


def split_heads(x, n_head):
    return x.unflatten(-1, (-1, n_head)).permute(0, 3, 1, 2)
