"""By how far the load is off, and not by its sign alone: a step without a bound."""


def nudge(bias, counts, rate):
    counts = counts.to(bias.dtype)
    return bias + rate * (counts.mean() - counts)
