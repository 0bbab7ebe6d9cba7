"""Forgets to add the maximum back, so that the way back divides by the wrong sum."""


def finish(state):
    _, l, y = state
    l = l.clamp_min(1.0)  # the largest score adds exp(0), so that only a row that saw nothing is below 1
    return y / l, l.log()
