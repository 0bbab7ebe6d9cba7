"""Up for who has much: the busy become busier."""


def nudge(bias, counts, rate):
    counts = counts.to(bias.dtype)
    return bias + rate * (counts - counts.mean()).sign()
