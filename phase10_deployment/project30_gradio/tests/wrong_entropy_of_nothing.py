"""0 log 0 is not a number, and neither is the sum."""


def entropy(shares):
    return float(-(shares * np.log2(shares)).sum())
