"""Cuts the memory into heads without moving the axes: tokens and heads get mixed up."""


def split_heads(x, n_head):
    B, T, C = x.shape
    return x.reshape(B, n_head, T, C // n_head)
