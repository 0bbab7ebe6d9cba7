"""Says that the whole weighs as much as its heaviest part: right once, wrong in the next merge."""


def merge(ys, lses):
    return (lses.softmax(0) * ys).sum(0), lses.amax(0)
