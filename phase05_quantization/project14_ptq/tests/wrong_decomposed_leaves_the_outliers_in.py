"""Adds the outliers in floats, and leaves them in the rows that are rounded: counted twice."""


def decomposed(x, codes, scale, threshold=THRESHOLD):
    large = outliers(x, threshold)
    y = int8_linear(x, codes, scale)
    if large.any():
        y = y + x[:, large].float() @ (codes[:, large].float() * scale[:, None]).T
    return y
