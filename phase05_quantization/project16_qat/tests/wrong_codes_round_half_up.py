"""Rounds halves up and not to the even one, so that training and export differ."""


def to_codes(x, step, bits):
    most = qmax(bits)
    v = x / step
    return (v + ((v + 0.5).floor() - v).detach()).clamp(-most - 1, most)
