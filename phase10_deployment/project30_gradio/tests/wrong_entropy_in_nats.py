"""The natural logarithm: nats, not bits."""


def entropy(shares):
    there = shares[shares > 0]
    return float(abs((there * np.log(there)).sum()))
