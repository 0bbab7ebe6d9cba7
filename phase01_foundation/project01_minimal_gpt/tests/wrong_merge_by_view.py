"""Reads the memory off as it lies, heads before tokens."""


def merge_heads(y):
    B, H, T, D = y.shape
    return y.reshape(B, T, H * D)
